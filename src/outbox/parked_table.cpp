#include "outbox/parked_table.hpp"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "event/topic_pattern.hpp"
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

/// Statements by reason and attempts, of which there are few; payloads never leave the server.
using ByReason = std::map<std::pair<std::string, int>, std::vector<std::int64_t>>;

ByReason byReason(const std::vector<Park>& events) {
  ByReason groups;
  for (const Park& event : events) groups[{event.reason, event.attempts}].push_back(event.id);
  return groups;
}

/// A branch, cut by bytes as well. octet_length does not read a toasted payload.
std::string cutByBytes(const std::string& branch, const std::string& limit) {
  return "select " + std::string(kRowColumns) +
         " from (select b.*, sum(octet_length(payload)) over (order by id rows between"
         " unbounded preceding and 1 preceding) as bytes_before from (" +
         branch + ") b) p where coalesce(bytes_before, 0) < " + limit + " order by id";
}

std::vector<Row> rowsOf(const pqxx::result& result) {
  std::vector<Row> rows;
  for (const auto& fields : result) rows.push_back(rowFrom(fields, 0));
  return rows;
}

/// The types that hold their key, as a regular expression for a dot and the type; nothing matches
/// the last.
std::string expressionOf(const HoldPolicy& hold) {
  if (hold.everything) return "";
  std::string expression;
  for (const std::string& pattern : hold.types) {
    expression += (expression.empty() ? "" : "|") + topicExpression(pattern);
  }
  return expression.empty() ? "a^" : expression;
}

/// A list of texts as one parameter.
std::string asJson(const std::vector<std::string>& texts) {
  return nlohmann::json(texts).dump();
}

}  // namespace

bool HoldPolicy::holds(const std::string& type) const {
  return everything || std::ranges::any_of(types, [&](const std::string& pattern) {
           return matchesTopic(pattern, type);
         });
}

void writeParked(pqxx::transaction_base& tx, const std::string& schema,
                 const ParkedChanges& changes) {
  const std::string columns =
      "id, created_at, event_id, type, source, key, time, content_type, correlation_id,"
      " causation_id, traceparent, tracestate, expires_at, headers, payload";
  for (const auto& [reason, ids] : byReason(changes.park)) {
    execute(tx,
            inSchema("insert into {schema}.parked (reason, attempts, lane, " + columns +
                         ") select $1::text, $2::text::int, {schema}.lane_of(lane, key, id), " +
                         columns +
                         " from {schema}.outbox where id = any($3::text::bigint[])"
                         " on conflict do nothing",
                     schema),
            {reason.first, std::to_string(reason.second), asArray(ids)});
  }
  for (const auto& [reason, ids] : byReason(changes.retried)) {
    execute(tx,
            inSchema("update {schema}.parked set reason = $1::text, attempts = attempts +"
                     " $2::text::int where id = any($3::text::bigint[])",
                     schema),
            {reason.first, std::to_string(reason.second), asArray(ids)});
  }
  if (changes.unpark.empty()) return;
  execute(tx, inSchema("delete from {schema}.parked where id = any($1::text::bigint[])", schema),
          {asArray(changes.unpark)});
}

ParkedSummary summarizeParked(pqxx::transaction_base& tx, const std::string& schema, Lanes lanes,
                              const HoldPolicy& hold) {
  ParkedSummary summary;
  // Jumps from type to type through the index: a million parked events of one type cost one probe.
  const auto types = execute(
      tx,
      inSchema("with recursive jump as ((select type from {schema}.parked where reason ="
               " 'unroutable' and ($1::text::bigint >> lane::int) & 1 = 1 order by type limit 1)"
               " union all select (select p.type from {schema}.parked p where p.type > j.type and"
               " p.reason = 'unroutable' and ($1::text::bigint >> p.lane::int) & 1 = 1"
               " order by p.type limit 1) from jump j where j.type is not null)"
               " select type from jump where type is not null",
               schema),
      {lanesText(lanes)});
  for (const auto& row : types) summary.unroutableTypes.push_back(textOf(row[0]));
  summary.anyRefused = !readRefused(tx, schema, lanes, 0).empty();
  // What is held is of a key by itself, also when the policy is another one by now.
  const std::string ofLanes = "($1::text::bigint >> lane::int) & 1 = 1";
  const std::string held =
      "select key, lane, id, true as waits from {schema}.parked where reason ="
      " 'held' and " +
      ofLanes;
  const std::string heads =
      " union all select key, lane, id, false from {schema}.parked where key"
      " is not null and reason <> 'held' and " +
      ofLanes + " and '.' || type ~ $2::text";
  const auto keys = execute(
      tx,
      inSchema("select distinct on (key) key, lane, id, waits from (" + held +
                   (hold.any() ? heads : " and $2::text = $2::text") + ") p order by key, id",
               schema),
      {lanesText(lanes), expressionOf(hold)});
  for (const auto& row : keys) {
    summary.keys.push_back({textOf(row[0]), static_cast<int>(integerOf(row[1])), integerOf(row[2]),
                            row[3].as<bool>()});
  }
  return summary;
}

std::vector<std::int64_t> readSuspects(pqxx::transaction_base& tx, const std::string& schema,
                                       Lanes lanes) {
  std::vector<std::int64_t> ids;
  const auto rows = execute(tx,
                            inSchema("select id from {schema}.parked where reason = 'suspect' and"
                                     " ($1::text::bigint >> lane::int) & 1 = 1",
                                     schema),
                            {lanesText(lanes)});
  for (const auto& row : rows) ids.push_back(integerOf(row[0]));
  return ids;
}

std::vector<Row> readUnroutable(pqxx::transaction_base& tx, const std::string& schema,
                                const std::string& type, Lanes lanes, ReadLimits limits) {
  return rowsOf(
      execute(tx,
              inSchema(cutByBytes("select * from {schema}.parked where type = $1::text and reason ="
                                  " 'unroutable' and ($2::text::bigint >> lane::int) & 1 = 1"
                                  " order by type, id limit $3::text::bigint",
                                  "$4::text::bigint"),
                       schema),
              {type, lanesText(lanes), std::to_string(limits.rows), std::to_string(limits.bytes)}));
}

HeldRows readHeld(pqxx::transaction_base& tx, const std::string& schema,
                  const std::vector<std::string>& keys, const HoldPolicy& hold, ReadLimits limits) {
  const std::string ofKeys = "key in (select json_array_elements_text($1::text::json))";
  const std::string holds = "reason <> 'held' and '.' || type ~ $2::text";
  HeldRows held;
  held.rows = rowsOf(execute(
      tx,
      inSchema(cutByBytes("select * from {schema}.parked q where " + ofKeys +
                              " and reason = 'held' and not exists (select from (select reason,"
                              " type from {schema}.parked h where h.key = q.key and h.id < q.id)"
                              " before where " +
                              holds + ") order by id limit $3::text::bigint",
                          "$4::text::bigint"),
               schema),
      {asJson(keys), expressionOf(hold), std::to_string(limits.rows),
       std::to_string(limits.bytes)}));
  std::size_t bytes = 0;
  for (const Row& row : held.rows) bytes += row.payload.size();
  held.cut = held.rows.size() >= limits.rows || bytes >= limits.bytes;
  const auto headed =
      execute(tx,
              inSchema("select distinct key from {schema}.parked where " + holds + " and " + ofKeys,
                       schema),
              {asJson(keys), expressionOf(hold)});
  for (const auto& row : headed) held.headed.insert(textOf(row[0]));
  return held;
}

std::vector<Row> readRefused(pqxx::transaction_base& tx, const std::string& schema, Lanes lanes,
                             std::int64_t after) {
  return rowsOf(execute(tx,
                        inSchema("select " + std::string(kRowColumns) +
                                     " from {schema}.parked where reason = 'refused' and id >"
                                     " $2::text::bigint and ($1::text::bigint >> lane::int) & 1 = 1"
                                     " order by id limit 1",
                                 schema),
                        {lanesText(lanes), std::to_string(after)}));
}

ParkedCount countParked(pqxx::transaction_base& tx, const std::string& schema) {
  const auto result = tx.exec(inSchema(
      "select reason, count(*), extract(epoch from clock_timestamp() - min(parked_at))::float8"
      " from {schema}.parked group by reason",
      schema));
  ParkedCount count;
  for (const auto& row : result) {
    const auto events = static_cast<std::uint64_t>(integerOf(row[1]));
    count.events += events;
    count.byReason[textOf(row[0])] = events;
    count.oldestSeconds = std::max(count.oldestSeconds.value_or(0), row[2].as<double>());
  }
  return count;
}

}  // namespace pillion::outbox
