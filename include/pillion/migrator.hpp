/// Migrator: brings the schema in a service's database to what this version of Pillion needs.
#pragma once

#include <pillion/options.hpp>
#include <string>
#include <vector>

namespace pillion {

struct Migration {
  int version;           ///< 1, 2, 3 …, the file's number
  std::string name;      ///< the file's name without number and ending
  std::string checksum;  ///< 16 hexadecimal digits of the text, recorded when applied
  std::string sql;       ///< runs with the schema first in `search_path`
};

/// Applies the numbered files of `sql/`, which are part of the library, each once and all in one
/// transaction. Ten processes may start at once: they take turns, and all but one find nothing to
/// do. Needs a role that may create the schema, or one that owns it.
class Migrator {
 public:
  explicit Migrator(DatabaseOptions options = {});

  /// Creates the schema when missing and applies what is not recorded yet. Returns what it applied.
  /// Throws SchemaError when a recorded migration has another checksum, or when the database was
  /// migrated by a newer program; nothing is changed then.
  std::vector<Migration> migrate() const;

  /// The same as a script for psql, Flyway and the like: one transaction that creates the schema,
  /// applies every file and records it.
  [[nodiscard]] std::string script() const;

  /// All migrations of this program, in order.
  [[nodiscard]] static const std::vector<Migration>& known();

 private:
  DatabaseOptions options_;
};

}  // namespace pillion
