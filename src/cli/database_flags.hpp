#pragma once

#include <CLI/CLI.hpp>
#include <pillion/options.hpp>

namespace pillion::cli {

/// The flags that say where the database is, the same for every verb.
inline void addDatabaseFlags(CLI::App& command, DatabaseOptions& options) {
  command.add_option(
      "--database-url", options.url,
      "PostgreSQL URL; else PILLION_DATABASE_URL, else PG* (a URL on the command line "
      "is seen by every user of the machine)");
  command.add_option("--schema", options.schema,
                     "Schema of outbox and inbox; else PILLION_SCHEMA, else pillion");
}

}  // namespace pillion::cli
