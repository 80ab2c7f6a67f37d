#include <cstdio>
#include <pillion/migrator.hpp>

#include "cli/commands.hpp"
#include "cli/database_flags.hpp"

namespace pillion::cli {
namespace {

struct Chosen {
  DatabaseOptions database;
  bool print = false;
};

void migrate(const Chosen& chosen) {
  const Migrator migrator(chosen.database);
  if (chosen.print) {
    std::fputs(migrator.script().c_str(), stdout);
    return;
  }
  const auto applied = migrator.migrate();
  for (const Migration& migration : applied) {
    std::printf("applied %d %s\n", migration.version, migration.name.c_str());
  }
  if (applied.empty()) std::printf("nothing to do\n");
}

}  // namespace

void addMigrateCommand(CLI::App& app) {
  auto chosen = std::make_shared<Chosen>();
  auto* command =
      app.add_subcommand("migrate", "Bring the schema to what this version needs; safe to repeat");
  addDatabaseFlags(*command, chosen->database);
  command->add_flag("--print", chosen->print,
                    "Print the SQL for psql or another tool, without connecting");
  command->callback([chosen] { migrate(*chosen); });
}

}  // namespace pillion::cli
