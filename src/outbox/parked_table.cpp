#include "outbox/parked_table.hpp"

#include <algorithm>
#include <iterator>

#include "outbox/row_columns.hpp"
#include "postgres/array.hpp"
#include "postgres/identifier.hpp"
#include "postgres/statement.hpp"

namespace pillion::outbox {
namespace {

using postgres::execute;
using postgres::inSchema;
using postgres::integerOf;
using postgres::textOf;

/// A pass looks at so many sequence numbers at a time, however few events it finds there.
constexpr std::int64_t kPassStep = 20'000;

/// What is sick is the event, not its type.
constexpr const char* kOwnReasons = "('refused', 'invalid', 'suspect')";
constexpr const char* kTypeReasons = "('unroutable', 'nacked', 'unconfirmed', 'forbidden')";

/// The table has statistics of some moment, when it may have been empty: every read is an ordered
/// walk through one of its indexes.
constexpr const char* kReadSettings =
    "set local enable_seqscan = off; set local enable_bitmapscan = off; set local enable_sort = "
    "off;"
    " set local enable_hashjoin = off; set local enable_mergejoin = off; set local jit = off;"
    " set local max_parallel_workers_per_gather = 0; set local lock_timeout = '5s'";

template <typename Values>
std::string arrayOfNumbers(const Values& values, auto number) {
  std::string array = "{";
  for (const auto& value : values) {
    if (array.size() > 1) array += ',';
    array += std::to_string(number(value));
  }
  return array + '}';
}

std::string arrayOfTexts(const std::vector<std::string>& texts) {
  return postgres::arrayOf(texts, [](const std::string& text) { return text; });
}

/// A branch in the order of seq, cut by bytes as well. octet_length does not read a toasted
/// payload.
std::string cutByBytes(const std::string& branch, const std::string& limit) {
  return "select seq, reason, holds, " + std::string(kRowColumns) +
         " from (select b.*, sum(octet_length(payload)) over (order by seq rows between"
         " unbounded preceding and 1 preceding) as bytes_before from (" +
         branch + ") b) p where coalesce(bytes_before, 0) < " + limit + " order by seq";
}

std::vector<ParkedRow> rowsOf(const pqxx::result& result) {
  std::vector<ParkedRow> rows;
  rows.reserve(static_cast<std::size_t>(result.size()));
  for (const auto& fields : result) {
    // A reason that somebody wrote by hand is none that is tried again.
    rows.push_back({.seq = integerOf(fields[0]),
                    .reason = reasonFrom(textOf(fields[1])).value_or(Reason::Invalid),
                    .holds = fields[2].as<bool>(),
                    .row = rowFrom(fields, 3)});
  }
  return rows;
}

}  // namespace

void writeParked(pqxx::transaction_base& tx, const std::string& schema,
                 const ParkedChanges& changes) {
  const std::string columns =
      "created_at, event_id, type, source, key, time, content_type, correlation_id, causation_id,"
      " traceparent, tracestate, expires_at, headers, payload";
  if (!changes.park.empty()) {
    // In one statement, so that seq follows the order of the events. The part of the ring is said,
    // so that each is looked for in one of them. Payloads never leave the server.
    execute(
        tx,
        inSchema("insert into {schema}.parked (xid, id, lane, reason, attempts, holds, " + columns +
                     ") select o.xid, o.id, {schema}.lane_of(o.lane, o.key, o.id)," +
                     " p.reason, p.attempts, p.holds, " + columns +
                     " from unnest($1::text::bigint[], $2::text::text[], $3::text::int[],"
                     " $4::text::bool[]) as p(id, reason, attempts, holds)"
                     " join {schema}.outbox o on o.id = p.id and (o.id >> 22) & 7 ="
                     " (p.id >> 22) & 7 order by o.id",
                 schema),
        {arrayOfNumbers(changes.park, [](const Park& park) { return park.id; }),
         postgres::arrayOf(changes.park, [](const Park& park) { return textOf(park.reason); }),
         arrayOfNumbers(changes.park, [](const Park& park) { return park.attempts; }),
         postgres::arrayOf(changes.park, [](const Park& park) { return park.holds ? "t" : "f"; })});
  }
  if (!changes.retried.empty()) {
    execute(
        tx,
        inSchema("update {schema}.parked p set reason = r.reason, holds = r.holds, attempts ="
                 " p.attempts + r.attempts, tried_at = case when r.attempts > 0 then"
                 " clock_timestamp() else p.tried_at end from unnest($1::text::bigint[],"
                 " $2::text::text[], $3::text::bool[], $4::text::int[]) as r(seq, reason, holds,"
                 " attempts) where p.seq = r.seq",
                 schema),
        {arrayOfNumbers(changes.retried, [](const Retried& retried) { return retried.seq; }),
         postgres::arrayOf(changes.retried,
                           [](const Retried& retried) { return textOf(retried.reason); }),
         postgres::arrayOf(changes.retried,
                           [](const Retried& retried) { return retried.holds ? "t" : "f"; }),
         arrayOfNumbers(changes.retried, [](const Retried& retried) { return retried.attempts; })});
  }
  if (changes.settled.empty()) return;
  execute(tx, inSchema("delete from {schema}.parked where seq = any($1::text::bigint[])", schema),
          {arrayOfNumbers(changes.settled, [](std::int64_t seq) { return seq; })});
}

ParkedSummary summarizeParked(pqxx::transaction_base& tx, const std::string& schema, Lanes lanes) {
  const std::string mine = " and ($1::text::bigint >> lane::int) & 1 = 1";
  ParkedSummary summary;
  // Jumps from type to type through the index: a million parked events of one type cost one probe.
  const std::string oldest = "select type, reason, seq from {schema}.parked where reason in " +
                             std::string(kTypeReasons) + mine;
  const auto types = execute(
      tx,
      inSchema("with recursive jump as ((" + oldest +
                   " order by type, seq limit 1) union all select n.* from jump j, lateral (" +
                   oldest +
                   " and type > j.type order by type, seq limit 1) n)"
                   " select type, reason from jump",
               schema),
      {lanesText(lanes)});
  for (const auto& row : types) {
    const auto reason = reasonFrom(textOf(row[1]));
    summary.types.push_back({textOf(row[0]), reason.value_or(Reason::Unroutable)});
  }
  const auto keys = execute(
      tx,
      inSchema("select key, min(lane), min(id), count(*) from {schema}.parked where holds and key"
               " is not null" +
                   mine + " group by key",
               schema),
      {lanesText(lanes)});
  for (const auto& row : keys) {
    summary.keys.push_back({textOf(row[0]), static_cast<int>(integerOf(row[1])), integerOf(row[2]),
                            static_cast<std::size_t>(integerOf(row[3]))});
  }
  summary.anyRefused =
      !execute(tx,
               inSchema("select from {schema}.parked where reason = 'refused'" + mine + " limit 1",
                        schema),
               {lanesText(lanes)})
           .empty();
  const auto ahead = execute(
      tx,
      inSchema("select p.id from {schema}.parked p join {schema}.lane_position l on l.lane = p.lane"
               " where p.xid >= (select min(pg_snapshot_xmin(done)) from {schema}.lane_position)"
               " and not {schema}.is_published(p.xid, p.id, l) and"
               " ($1::text::bigint >> p.lane::int) & 1 = 1",
               schema),
      {lanesText(lanes)});
  for (const auto& row : ahead) summary.ahead.push_back(integerOf(row[0]));
  return summary;
}

namespace {

ParkedAnswer answerPass(pqxx::transaction_base& tx, const std::string& schema,
                        const ParkedQuestion& question, ReadLimits limits) {
  const auto ends = execute(
      tx,
      inSchema("select (select seq from {schema}.parked where seq > $1::text::bigint order by seq"
               " limit 1), (select seq from {schema}.parked order by seq desc limit 1)",
               schema),
      {std::to_string(question.after)});
  ParkedAnswer answer;
  answer.upTo = question.after;
  answer.end = true;
  if (ends[0][0].is_null()) return answer;
  answer.first = integerOf(ends[0][0]) - 1;
  const std::int64_t last = integerOf(ends[0][1]);
  const std::int64_t upTo = std::min(answer.first + kPassStep, last);
  const std::string own = kOwnReasons;
  answer.rows = rowsOf(execute(
      tx,
      inSchema(
          cutByBytes("select * from {schema}.parked q where seq > $1::text::bigint and seq <="
                     " $2::text::bigint and ($3::text::bigint >> lane::int) & 1 = 1 and reason"
                     " not in " +
                         own +
                         " and not type = any($4::text::text[]) and not exists"
                         " (select from {schema}.parked h where h.key = q.key and h.id < q.id and"
                         " h.holds and (h.reason in " +
                         own +
                         " or h.type ="
                         " any($4::text::text[]))) order by seq limit $5::text::bigint",
                     "$6::text::bigint"),
          schema),
      {std::to_string(question.after), std::to_string(upTo), lanesText(question.lanes),
       arrayOfTexts(question.names), std::to_string(limits.rows), std::to_string(limits.bytes)}));
  std::size_t bytes = 0;
  for (const ParkedRow& parked : answer.rows) bytes += parked.row.payload.size();
  const bool cut = answer.rows.size() >= limits.rows || bytes >= limits.bytes;
  answer.upTo = cut ? answer.rows.back().seq : upTo;
  answer.end = !cut && upTo >= last;
  return answer;
}

/// The oldest one behind `after` that meets the condition.
std::vector<ParkedRow> readOne(pqxx::transaction_base& tx, const std::string& schema,
                               const std::string& condition, const ParkedQuestion& question) {
  return rowsOf(execute(
      tx,
      inSchema("select seq, reason, holds, " + std::string(kRowColumns) +
                   " from {schema}.parked where " + condition +
                   " and seq > $1::text::bigint and ($2::text::bigint >> lane::int) & 1 = 1 and"
                   " ($3::text = '' or type = $3::text) order by seq limit 1",
               schema),
      {std::to_string(question.after), lanesText(question.lanes), question.type}));
}

std::map<std::string, ParkedAnswer::Head> readHeads(pqxx::transaction_base& tx,
                                                    const std::string& schema,
                                                    const std::vector<std::string>& keys) {
  std::map<std::string, ParkedAnswer::Head> heads;
  const auto result = execute(
      tx,
      inSchema(
          "select k.key, h.seq, h.reason, h.type from unnest($1::text::text[]) as k(key), lateral"
          " (select seq, reason, type from {schema}.parked p where p.key = k.key and p.holds"
          " order by p.key, p.id limit 1) h",
          schema),
      {arrayOfTexts(keys)});
  for (const auto& row : result) {
    heads[textOf(row[0])] = {integerOf(row[1]),
                             reasonFrom(textOf(row[2])).value_or(Reason::Invalid), textOf(row[3])};
  }
  return heads;
}

}  // namespace

ParkedAnswer answerParked(pqxx::transaction_base& tx, const std::string& schema,
                          const ParkedQuestion& question, ReadLimits limits) {
  using Kind = ParkedQuestion::Kind;
  tx.exec(kReadSettings);
  if (question.kind == Kind::Pass) return answerPass(tx, schema, question, limits);
  ParkedAnswer answer;
  if (question.kind == Kind::Probe) {
    answer.rows =
        readOne(tx, schema, "type = $3::text and reason in " + std::string(kTypeReasons), question);
  } else if (question.kind == Kind::Refused) {
    answer.rows = readOne(tx, schema, "reason = 'refused'", question);
  } else {
    answer.heads = readHeads(tx, schema, question.names);
  }
  return answer;
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

void stampParkedAnew(pqxx::transaction_base& tx, const std::string& schema) {
  // As if they were written by this transaction, which no cursor has passed.
  tx.exec(inSchema("update {schema}.parked set xid = pg_current_xact_id()", schema));
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
