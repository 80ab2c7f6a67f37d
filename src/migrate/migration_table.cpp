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
std::string ownPath(const std::string& schema) {
  return quoteIdentifier(schema) + ", pg_catalog, pg_temp";
}

std::string enterSchema(const std::string& schema) {
  return "set local search_path to " + ownPath(schema);
}

}  // namespace

void lockAndCreate(pqxx::transaction_base& tx, const std::string& schema) {
  // Writers would queue up behind whatever this waits for.
  tx.exec("set local lock_timeout = '5s'");
  const auto exists =
      postgres::execute(tx, "select 1 from pg_namespace where nspname = $1::text", {schema});
  // Asked first: CREATE SCHEMA IF NOT EXISTS wants the right to create even when there is nothing
  // to.
  if (exists.empty()) tx.exec("create schema " + quoteIdentifier(schema));
  const auto known =
      postgres::execute(tx, "select to_regclass($1::text) is not null", {table(schema)});
  if (!known[0][0].as<bool>()) tx.exec(createTable(schema));
  tx.exec("lock table " + table(schema) + " in share row exclusive mode");
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

std::string tablesWithRowSecurity(pqxx::transaction_base& tx, const std::string& schema) {
  const auto tables =
      postgres::execute(tx,
                        "select string_agg(c.relname, ', ' order by c.relname) from pg_class c join"
                        " pg_namespace n on n.oid = c.relnamespace where n.nspname = $1::text and"
                        " c.relkind in ('r', 'p') and row_security_active(c.oid)",
                        {schema});
  return postgres::textOf(tables[0][0]);
}

std::string detachedParts(pqxx::transaction_base& tx, const std::string& schema) {
  const auto parts =
      postgres::execute(tx,
                        "select string_agg(c.relname, ', ' order by c.relname) from pg_class c join"
                        " pg_namespace n on n.oid = c.relnamespace where n.nspname = $1::text and"
                        " c.relkind = 'r' and c.relname ~ '^(outbox_[0-7]|inbox_([0-9]+|other))$'"
                        " and not c.relispartition",
                        {schema});
  return postgres::textOf(parts[0][0]);
}

std::string lockHolders(pqxx::transaction_base& tx, const std::string& schema) {
  const auto holders = postgres::execute(
      tx,
      "select string_agg(distinct 'pid ' || l.pid || ' (' || coalesce(nullif(a.application_name,"
      " ''), 'no name') || ', ' || coalesce(a.state, 'unknown') || ')', ', ') from pg_locks l"
      " join pg_class c on c.oid = l.relation join pg_namespace n on n.oid = c.relnamespace"
      " left join pg_stat_activity a on a.pid = l.pid where n.nspname = $1::text and l.granted"
      " and l.database = (select oid from pg_database where datname = current_database())"
      " and l.pid <> pg_backend_pid()",
      {schema});
  if (holders[0][0].is_null()) return "Nobody holds one any more: run it again";
  return "Locks are held by " + postgres::textOf(holders[0][0]) +
         ": let these transactions end, and run it again";
}

std::vector<std::string> strangeFunctions(pqxx::transaction_base& tx, const std::string& schema) {
  std::vector<std::string> names;
  const auto functions = postgres::execute(
      tx,
      "select quote_ident(p.proname) || '(' || pg_get_function_identity_arguments(p.oid) || ')'"
      " from pg_proc p join pg_namespace n on n.oid = p.pronamespace, unnest(p.proconfig) setting"
      " where n.nspname = $1::text and setting like 'search_path=%' and"
      " not starts_with(replace(setting, '\"', ''), 'search_path=' || replace($1::text, '\"', '')"
      " || ',') order by 1",
      {schema});
  for (const auto& row : functions) names.push_back(postgres::textOf(row[0]));
  return names;
}

void mendFunctions(pqxx::transaction_base& tx, const std::string& schema) {
  for (const std::string& function : strangeFunctions(tx, schema)) {
    tx.exec("alter function " + quoteIdentifier(schema) + '.' + function + " set search_path to " +
            ownPath(schema));
  }
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
