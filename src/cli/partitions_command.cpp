#include <cstdio>
#include <nlohmann/json.hpp>
#include <pillion/error.hpp>
#include <pillion/group.hpp>

#include "cli/commands.hpp"
#include "cli/database_flags.hpp"
#include "cli/groups.hpp"

namespace pillion::cli {
namespace {

struct Chosen {
  DatabaseOptions database;
  std::string service;
  std::string subscription = "events";
  std::string queue;
  int number = 0;
  bool json = false;
};

void run(const Chosen& chosen) {
  if (chosen.queue.empty() && chosen.service.empty()) {
    throw ConfigError("partitions needs --service, or --queue");
  }
  const std::string consumer =
      chosen.queue.empty() ? chosen.service + "." + chosen.subscription : chosen.queue;
  if (chosen.number != 0) changePartitions(chosen.database, consumer, chosen.number);
  auto groups = readGroupStatus(chosen.database);
  std::erase_if(groups, [&](const GroupStatus& group) { return group.consumer != consumer; });
  if (groups.empty()) {
    throw ConfigError("no consumer '" + consumer +
                      "' with partitions has been started on this database");
  }
  chosen.json ? (void)std::printf("%s\n", groupsAsJson(groups)[0].dump(2).c_str())
              : printGroups(groups);
}

}  // namespace

void addPartitionsCommand(CLI::App& app) {
  auto chosen = std::make_shared<Chosen>();
  auto* command = app.add_subcommand(
      "partitions",
      "Show which instance of a consumer has which partitions, or change their number");
  addDatabaseFlags(*command, chosen->database);
  command->add_option("--service", chosen->service, "The consuming service");
  command->add_option("--subscription", chosen->subscription, "Its subscription")
      ->capture_default_str();
  command->add_option("--queue", chosen->queue, "Its queue, in place of <service>.<subscription>");
  command
      ->add_option("--set", chosen->number, "So many from now on; the instances that run see to it")
      ->check(CLI::Range(1, 64));
  command->add_flag("--json", chosen->json, "For programs");
  command->callback([chosen] { run(*chosen); });
}

}  // namespace pillion::cli
