#include <cstdio>
#include <pillion/restore.hpp>

#include "cli/broker_flags.hpp"
#include "cli/commands.hpp"
#include "cli/database_flags.hpp"

namespace pillion::cli {
namespace {

struct Chosen {
  DatabaseOptions database;
  int republishHours = 13 * 24;
  bool dryRun = false;
  bool newIdentity = false;
  BrokerOptions broker;
  std::string queue;
};

void adopt(const Chosen& chosen) {
  if (!chosen.queue.empty()) {
    adoptQueue(chosen.database, chosen.broker, chosen.queue);
    std::printf("queue '%s' belongs to this database now\n", chosen.queue.c_str());
    return;
  }
  adoptCluster(chosen.database, chosen.newIdentity);
  std::printf("the cursor is adopted; relays may start\n");
}

void rebase(const Chosen& chosen) {
  const Rebased rebased =
      rebaseCursor(chosen.database, std::chrono::hours(chosen.republishHours), chosen.dryRun);
  std::printf("%s: %llu events are published again, %llu older ones count as published\n",
              chosen.dryRun ? "dry run" : "done",
              static_cast<unsigned long long>(rebased.republished),
              static_cast<unsigned long long>(rebased.kept));
}

void addAdopt(CLI::App& app) {
  auto chosen = std::make_shared<Chosen>();
  auto* command =
      app.add_subcommand("adopt",
                         "Go on with the cursor as it is: this cluster kept its transaction ids "
                         "(pg_upgrade); or, with "
                         "--queue, with a consumer's queue that was another database's");
  addDatabaseFlags(*command, chosen->database);
  addBrokerUrl(*command, chosen->broker);
  auto* queue = command->add_option("--queue", chosen->queue,
                                    "A consumer's queue, whose database was moved here");
  command
      ->add_flag("--new-identity", chosen->newIdentity,
                 "This is a copy of a whole cluster that lives on beside it (base backup): be "
                 "another outbox, and another inbox, to the broker")
      ->excludes(queue);
  command->callback([chosen] { adopt(*chosen); });
}

void addRebase(CLI::App& app) {
  auto chosen = std::make_shared<Chosen>();
  auto* command = app.add_subcommand(
      "rebase", "Go on in another cluster (restored dump): publish what is kept again");
  addDatabaseFlags(*command, chosen->database);
  command
      ->add_option(
          "--republish-hours", chosen->republishHours,
          "Only events that were written so long ago or later; keep it below the consumers' "
          "dedupe window")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_flag("--dry-run", chosen->dryRun, "Count, change nothing");
  command->callback([chosen] { rebase(*chosen); });
}

}  // namespace

void addRestoreCommands(CLI::App& app) {
  addAdopt(app);
  addRebase(app);
}

}  // namespace pillion::cli
