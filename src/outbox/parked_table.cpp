#include "outbox/parked_table.hpp"

#include <map>

#include "outbox/row_columns.hpp"
#include "postgres/identifier.hpp"
#include "postgres/statement.hpp"

namespace pillion::outbox {
namespace {

using postgres::execute;
using postgres::inSchema;
using postgres::integerOf;
using postgres::textOf;

std::string asArray(const std::vector<std::int64_t>& ids) {
  std::string array = "{";
  for (const std::int64_t id : ids) {
    if (array.size() > 1) array += ',';
    array += std::to_string(id);
  }
  return array + '}';
}

}  // namespace

void park(pqxx::transaction_base& tx, const std::string& schema, const std::vector<Park>& events) {
  if (events.empty()) return;
  // One statement per reason, and there are few; the payloads never leave the server.
  std::map<std::string, std::vector<std::int64_t>> byReason;
  for (const Park& event : events) byReason[event.reason].push_back(event.id);
  const std::string columns =
      "id, lane, created_at, event_id, type, source, key, time, content_type, correlation_id,"
      " causation_id, traceparent, tracestate, headers, payload";
  for (const auto& [reason, ids] : byReason) {
    execute(tx,
            inSchema("insert into {schema}.parked (reason, " + columns + ") select $1::text, " +
                         columns +
                         " from {schema}.outbox where id = any($2::text::bigint[])"
                         " on conflict do nothing",
                     schema),
            {reason, asArray(ids)});
  }
}

void unpark(pqxx::transaction_base& tx, const std::string& schema,
            const std::vector<std::int64_t>& ids) {
  if (ids.empty()) return;
  execute(tx, inSchema("delete from {schema}.parked where id = any($1::text::bigint[])", schema),
          {asArray(ids)});
}

void markRefused(pqxx::transaction_base& tx, const std::string& schema,
                 const std::vector<std::int64_t>& ids) {
  if (ids.empty()) return;
  execute(tx,
          inSchema("update {schema}.parked set reason = 'refused' where id ="
                   " any($1::text::bigint[])",
                   schema),
          {asArray(ids)});
}

void countAttempts(pqxx::transaction_base& tx, const std::string& schema,
                   const std::vector<std::int64_t>& ids) {
  if (ids.empty()) return;
  execute(tx,
          inSchema("update {schema}.parked set attempts = attempts + 1 where id ="
                   " any($1::text::bigint[])",
                   schema),
          {asArray(ids)});
}

std::vector<std::string> parkedTypes(pqxx::transaction_base& tx, const std::string& schema,
                                     Lanes lanes) {
  // Jumps from type to type through the index: a million parked events of one type cost one probe.
  const auto result = execute(
      tx,
      inSchema("with recursive jump as ((select type from {schema}.parked where reason ="
               " 'unroutable' and ($1::text::bigint >> lane::int) & 1 = 1 order by type limit 1)"
               " union all select (select p.type from {schema}.parked p where p.type > j.type and"
               " p.reason = 'unroutable' and ($1::text::bigint >> p.lane::int) & 1 = 1"
               " order by p.type limit 1) from jump j where j.type is not null)"
               " select type from jump where type is not null",
               schema),
      {lanesText(lanes)});
  std::vector<std::string> types;
  for (const auto& row : result) types.push_back(textOf(row[0]));
  return types;
}

std::vector<Row> readParked(pqxx::transaction_base& tx, const std::string& schema,
                            const std::string& type, Lanes lanes, ReadLimits limits) {
  const auto result = execute(
      tx,
      inSchema("select " + std::string(kRowColumns) +
                   " from (select b.*, sum(octet_length(payload)::bigint) over (rows between"
                   " unbounded preceding and 1 preceding) as bytes_before from (select * from"
                   " {schema}.parked where type = $1::text and reason = 'unroutable'"
                   " and ($2::text::bigint >> lane::int) & 1 = 1"
                   " order by type, id limit $3::text::bigint) b) p"
                   " where coalesce(bytes_before, 0) < $4::text::bigint order by id",
               schema),
      {type, lanesText(lanes), std::to_string(limits.rows), std::to_string(limits.bytes)});
  std::vector<Row> rows;
  for (const auto& fields : result) rows.push_back(rowFrom(fields, 0));
  return rows;
}

ParkedCount countParked(pqxx::transaction_base& tx, const std::string& schema) {
  const auto result = tx.exec(inSchema(
      "select count(*), extract(epoch from clock_timestamp() - min(parked_at))::float8 from"
      " {schema}.parked",
      schema));
  ParkedCount count;
  count.events = static_cast<std::uint64_t>(integerOf(result[0][0]));
  if (!result[0][1].is_null()) count.oldestSeconds = result[0][1].as<double>();
  return count;
}

}  // namespace pillion::outbox
