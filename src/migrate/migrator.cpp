#include <pillion/migrator.hpp>

#include <cstdint>
#include <cstdio>
#include <pillion/error.hpp>
#include <string_view>

#include "migrate/embedded.hpp"
#include "migrate/migration_table.hpp"
#include "migrate/schema_check.hpp"
#include "postgres/connection.hpp"
#include "postgres/identifier.hpp"

namespace pillion {
namespace {

/// FNV-1a: notices an edited file. It guards against accidents, not against attackers, who could
/// change the schema itself.
std::string checksumOf(std::string_view text) {
  std::uint64_t hash = 0xcbf29ce484222325U;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3U;
  char digits[17];
  std::snprintf(digits, sizeof digits, "%016llx", static_cast<unsigned long long>(hash));
  return digits;
}

std::vector<Migration> load() {
  std::vector<Migration> migrations;
  for (const auto& file : migrate::embeddedFiles()) {
    migrations.push_back({file.version, file.name, checksumOf(file.text), file.text});
  }
  return migrations;
}

int newest(const std::vector<Migration>& migrations) {
  return migrations.back().version;
}

/// Refuses what no migration can mend.
void compare(const std::map<int, std::string>& applied, const std::string& schema) {
  const auto& known = Migrator::known();
  if (!applied.empty() && applied.rbegin()->first > newest(known)) {
    throw SchemaError("schema '" + schema + "' is at version " +
                      std::to_string(applied.rbegin()->first) + ", newer than this program's " +
                      std::to_string(newest(known)) + "; upgrade this program");
  }
  for (const Migration& migration : known) {
    const auto found = applied.find(migration.version);
    if (found != applied.end() && found->second != migration.checksum) {
      throw SchemaError("schema '" + schema + "': migration " + std::to_string(migration.version) +
                        " (" + migration.name + ") was applied with checksum " + found->second +
                        ", this program has " + migration.checksum +
                        "; the two come from different builds");
    }
  }
}

}  // namespace

Migrator::Migrator(DatabaseOptions options) : options_(std::move(options)) {
  postgres::quoteIdentifier(postgres::schemaOf(options_));
}

const std::vector<Migration>& Migrator::known() {
  static const std::vector<Migration> migrations = load();
  return migrations;
}

std::vector<Migration> Migrator::migrate() const {
  const std::string schema = postgres::schemaOf(options_);
  std::vector<Migration> done;
  const auto connection = postgres::connect(options_, "migrate");
  postgres::guarded("migrating schema '" + schema + "'", [&] {
    pqxx::work tx{*connection};
    migrate::lockAndCreate(tx, schema);
    const auto applied = migrate::appliedVersions(tx, schema);
    compare(applied, schema);
    for (const Migration& migration : known()) {
      if (applied.contains(migration.version)) continue;
      migrate::apply(tx, schema, migration);
      done.push_back(migration);
    }
    tx.commit();
  });
  return done;
}

std::string Migrator::script() const {
  return migrate::script(postgres::schemaOf(options_), known());
}

void migrate::requireCurrentSchema(pqxx::transaction_base& tx, const std::string& schema) {
  const auto applied = appliedVersions(tx, schema);
  const int wanted = newest(Migrator::known());
  if (applied.empty()) {
    throw SchemaError("schema '" + schema + "' is not there or not migrated; run: pillion migrate");
  }
  compare(applied, schema);
  if (applied.size() < Migrator::known().size()) {
    throw SchemaError("schema '" + schema + "' is at version " +
                      std::to_string(applied.rbegin()->first) + ", this program needs " +
                      std::to_string(wanted) + "; run: pillion migrate");
  }
}

}  // namespace pillion
