#include "migrate/meta_table.hpp"

#include <pillion/error.hpp>

#include "postgres/identifier.hpp"
#include "postgres/statement.hpp"

namespace pillion::migrate {

using postgres::inSchema;
using postgres::textOf;

namespace {

/// True when the cursor names transactions that this cluster has not seen yet.
constexpr const char* kCursorAhead =
    "pg_snapshot_xmax(pg_current_snapshot()) < (select max(pg_snapshot_xmax(coalesce(target,"
    " done))) from {schema}.lane_position)";

}  // namespace

void requireOwnCluster(pqxx::transaction_base& tx, const std::string& schema) {
  const auto result = tx.exec(inSchema(
      std::string("select pg_is_in_recovery(), (select system_identifier from pg_control_system())"
                  " is distinct from (select system_identifier from {schema}.meta), ") +
          kCursorAhead,
      schema));
  if (result[0][0].as<bool>()) {
    throw DatabaseError(DatabaseError::Kind::Unavailable,
                        "PostgreSQL is a standby; the relay works on the primary only");
  }
  if (result[0][1].as<bool>() || result[0][2].as<bool>()) {
    throw SchemaError("the outbox cursor in schema '" + schema +
                      "' was made in another PostgreSQL cluster: its transaction ids mean nothing "
                      "here, so publishing could skip events; after pg_upgrade run: pillion adopt; "
                      "after restoring a dump run: pillion rebase");
  }
}

void requireCursorInReach(pqxx::transaction_base& tx, const std::string& schema) {
  const auto result = tx.exec(inSchema(std::string("select ") + kCursorAhead, schema));
  if (!result[0][0].as<bool>()) return;
  throw SchemaError("the outbox cursor in schema '" + schema +
                    "' is ahead of this cluster's transaction ids, so they were not kept; run: "
                    "pillion rebase");
}

void storeCluster(pqxx::transaction_base& tx, const std::string& schema) {
  tx.exec(
      inSchema("update {schema}.meta set system_identifier = (select system_identifier from"
               " pg_control_system())",
               schema));
}

std::string outboxIdentity(pqxx::transaction_base& tx, const std::string& schema) {
  const auto result = tx.exec(inSchema(
      "select c.system_identifier, d.oid, m.identity from pg_catalog.pg_control_system() c,"
      " pg_catalog.pg_database d, {schema}.meta m where d.datname = pg_catalog.current_database()",
      schema));
  return textOf(result[0][0]) + '.' + textOf(result[0][1]) + '.' + schema + '.' +
         textOf(result[0][2]);
}

std::string inboxIdentity(pqxx::transaction_base& tx, const std::string& schema) {
  const auto parts = postgres::execute(
      tx, "select pg_catalog.current_database(), pg_catalog.left(pg_catalog.md5($1::text), 16)",
      {outboxIdentity(tx, schema)});
  return textOf(parts[0][0]) + '.' + schema + '.' + textOf(parts[0][1]);
}

void renewIdentity(pqxx::transaction_base& tx, const std::string& schema) {
  tx.exec(inSchema("update {schema}.meta set identity = gen_random_uuid()", schema));
}

}  // namespace pillion::migrate
