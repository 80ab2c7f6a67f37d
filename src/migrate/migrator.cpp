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

namespace {

constexpr int kAttempts = 5;

std::vector<Migration> applyMissing(postgres::Session& connection, const std::string& schema) {
  std::vector<Migration> done;
  pqxx::work tx{connection};
  migrate::lockAndCreate(tx, schema);
  migrate::mendFunctions(tx, schema);
  const auto applied = migrate::appliedVersions(tx, schema);
  compare(applied, schema);
  for (const Migration& migration : Migrator::known()) {
    if (applied.contains(migration.version)) continue;
    migrate::apply(tx, schema, migration);
    done.push_back(migration);
  }
  tx.commit();
  return done;
}

[[noreturn]] void sayWhoHolds(postgres::Session& connection, const std::string& schema) {
  pqxx::nontransaction tx{connection};
  throw DatabaseError(DatabaseError::Kind::Unavailable,
                      "migrating schema '" + schema +
                          "': a lock was not granted within 5 s; nothing is changed. " +
                          migrate::lockHolders(tx, schema));
}

}  // namespace

std::vector<Migration> Migrator::migrate() const {
  const std::string schema = postgres::schemaOf(options_);
  std::vector<Migration> done;
  const auto connection = postgres::connect(options_, "migrate");
  postgres::guarded("migrating schema '" + schema + "'", [&] {
    for (int attempt = 1;; ++attempt) {
      try {
        done = applyMissing(*connection, schema);
        return;
      } catch (const pqxx::sql_error& error) {
        const std::string& state = error.sqlstate();
        if (state == "55P03") sayWhoHolds(*connection, schema);
        // Somebody else created schema or table meanwhile: then it is there the next time.
        const bool created = state == "23505" || state == "42P06" || state == "42P07";
        if (!created || attempt == kAttempts) throw;
      }
    }
  });
  return done;
}

std::string Migrator::script() const {
  return migrate::script(postgres::schemaOf(options_), known());
}

namespace {

/// Rows that a policy hides, or that are in no table any more, would be passed over for good.
void requireNothingHidden(pqxx::transaction_base& tx, const std::string& schema) {
  if (const auto hidden = migrate::tablesWithRowSecurity(tx, schema); !hidden.empty()) {
    throw SchemaError("row-level security applies to this role on " + hidden +
                      ", which may hide rows; switch it off (alter table ... disable row level"
                      " security) or give the role BYPASSRLS");
  }
  if (const auto detached = migrate::detachedParts(tx, schema); !detached.empty()) {
    throw SchemaError("schema '" + schema + "': " + detached +
                      " was detached from its table, which hides its rows; attach it again (alter"
                      " table ... attach partition), with the values that sql/ says");
  }
}

/// The functions of a schema that was renamed, or copied under another name, work in the old one.
void requireOwnFunctions(pqxx::transaction_base& tx, const std::string& schema) {
  const auto strange = migrate::strangeFunctions(tx, schema);
  if (strange.empty()) return;
  throw SchemaError("schema '" + schema + "' was renamed or copied: function " + strange.front() +
                    " and others look for their tables in another schema; run: pillion migrate");
}

}  // namespace

void migrate::requireCurrentSchema(pqxx::transaction_base& tx, const std::string& schema) {
  requireNothingHidden(tx, schema);  // first: the list of migrations could be hidden, too
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
  requireOwnFunctions(tx, schema);
}

}  // namespace pillion
