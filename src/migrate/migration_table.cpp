#include "migrate/migration_table.hpp"

#include "postgres/identifier.hpp"
#include "postgres/statement.hpp"

namespace pillion::migrate {
namespace {

using postgres::quoteIdentifier;

std::string table(const std::string& schema) {
  return quoteIdentifier(schema) + ".migration";
}

std::string createTable(const std::string& schema) {
  return "create table if not exists " + table(schema) +
         " (version int primary key, name text not null, checksum text not null,"
         " applied_at timestamptz not null default clock_timestamp())";
}

/// Unqualified names in the files mean this schema; nothing else of the session's path is visible.
/// The functions keep this path. Temporary tables come last: were they not named, they would come
/// first, and one of a caller's own called `outbox` would take its events.
std::string enterSchema(const std::string& schema) {
  return "set local search_path to " + quoteIdentifier(schema) + ", pg_catalog, pg_temp";
}

}  // namespace

void lockAndCreate(pqxx::transaction_base& tx, const std::string& schema) {
  postgres::execute(
      tx, "select pg_advisory_xact_lock(hashtextextended('pillion migrate ' || $1::text, 0))",
      {schema});
  const auto exists =
      postgres::execute(tx, "select 1 from pg_namespace where nspname = $1::text", {schema});
  // Asked first: CREATE SCHEMA IF NOT EXISTS wants the right to create even when there is nothing
  // to.
  if (exists.empty()) tx.exec("create schema " + quoteIdentifier(schema));
  const auto known =
      postgres::execute(tx, "select to_regclass($1::text) is not null", {table(schema)});
  if (!known[0][0].as<bool>()) tx.exec(createTable(schema));
}

std::map<int, std::string> appliedVersions(pqxx::transaction_base& tx, const std::string& schema) {
  std::map<int, std::string> versions;
  const auto known =
      postgres::execute(tx, "select to_regclass($1::text) is not null", {table(schema)});
  if (!known[0][0].as<bool>()) return versions;
  for (const auto& row : tx.exec("select version, checksum from " + table(schema))) {
    versions.emplace(row[0].as<int>(), postgres::textOf(row[1]));
  }
  return versions;
}

void apply(pqxx::transaction_base& tx, const std::string& schema, const Migration& migration) {
  tx.exec(enterSchema(schema));
  tx.exec(migration.sql);
  tx.exec("reset search_path");
  postgres::execute(tx,
                    "insert into " + table(schema) +
                        " (version, name, checksum) values ($1::text::int, $2::text, $3::text)",
                    {std::to_string(migration.version), migration.name, migration.checksum});
}

std::string script(const std::string& schema, const std::vector<Migration>& migrations) {
  std::string text = "begin;\ncreate schema if not exists " + quoteIdentifier(schema) + ";\n" +
                     createTable(schema) + ";\n";
  for (const Migration& migration : migrations) {
    text += "\n-- " + std::to_string(migration.version) + " " + migration.name + "\n" +
            enterSchema(schema) + ";\n" + migration.sql + "\nreset search_path;\ninsert into " +
            table(schema) + " (version, name, checksum) values (" +
            std::to_string(migration.version) + ", '" + migration.name + "', '" +
            migration.checksum + "');\n";
  }
  return text + "commit;\n";
}

}  // namespace pillion::migrate
