#include "outbox/outbox_table.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "event/timestamp.hpp"
#include "outbox/row_columns.hpp"
#include "postgres/identifier.hpp"

namespace pillion::outbox {
namespace {

using postgres::inSchema;
using postgres::integerOf;
using postgres::Parameters;
using postgres::textOf;

constexpr std::size_t kInsertColumns = 12;

std::size_t payloadBytes(const std::vector<Row>& rows) {
  std::size_t bytes = 0;
  for (const Row& row : rows) bytes += row.payload.size();
  return bytes;
}

}  // namespace

std::string insertStatement(const std::string& schema, std::size_t rows) {
  std::string sql = inSchema(
      "insert into {schema}.outbox (event_id, type, source, key, time, content_type,"
      " correlation_id, causation_id, traceparent, tracestate, headers, payload) values ",
      schema);
  std::size_t next = 1;
  const auto parameter = [&](const char* before, const char* after) {
    return before + ("$" + std::to_string(next++)) + after;
  };
  for (std::size_t row = 0; row < rows; ++row) {
    sql += row == 0 ? "(" : ", (";
    sql += parameter("", "::text::uuid, ");
    sql += parameter("", "::text, ");
    sql += parameter("", "::text, ");
    sql += parameter("nullif(", "::text, ''), ");
    sql += parameter("", "::text::timestamptz, ");
    sql += parameter("", "::text, ");
    for (int optional = 0; optional < 4; ++optional) sql += parameter("nullif(", "::text, ''), ");
    sql += parameter("nullif(", "::text, '')::json, ");
    sql += parameter("", "::bytea)");
  }
  return sql;
}

void addInsertParameters(Parameters& parameters, const Event& event, const std::string& source,
                         const TraceContext& trace) {
  parameters.reserve(parameters.values().size() + kInsertColumns);
  parameters.add(event.id());
  parameters.add(event.type());
  parameters.add(source);
  parameters.add(event.key());
  parameters.add(toRfc3339(event.time()));
  parameters.add(event.contentType());
  parameters.add(event.correlationId());
  parameters.add(event.causationId());
  parameters.add(trace.traceparent);
  parameters.add(trace.tracestate);
  parameters.add(event.headers().empty() ? std::string() : nlohmann::json(event.headers()).dump());
  parameters.add(event.bytes());
}

OutboxReader::OutboxReader(const std::string& schema, std::size_t rowLimit, std::size_t byteLimit)
    : liveStatement_(inSchema("select * from {schema}.fetch_live($1::text::xid8[], $2::text::xid8,"
                              " $3::text::bigint, $4::text::bigint, $5::text::bigint)",
                              schema)),
      pageStatement_(inSchema("select * from {schema}.fetch_page($1::text::xid8[], $2::text::xid8,"
                              " $3::text::pg_snapshot, $4::text::bigint, $5::text::bigint,"
                              " $6::text::bigint, $7::text::bigint)",
                              schema)),
      lateStatement_(inSchema("select {schema}.lowest_late_id($1::text::xid8[])", schema)),
      rowLimit_(rowLimit),
      byteLimit_(byteLimit) {}

OutboxReader::Live OutboxReader::fetchLive(pqxx::transaction_base& tx, const Position& from) const {
  const auto result = postgres::execute(
      tx, liveStatement_,
      {from.done.inProgressArray(), std::to_string(from.done.xmax), std::to_string(rowLimit_ + 1),
       std::to_string(byteLimit_), lanesText(from.lanes)});
  Live live;
  live.now = Snapshot::parse(textOf(result[0][0]));
  live.lastId = integerOf(result[0][1]);
  live.server = textOf(result[0][2]);
  for (std::size_t i = 1; i < static_cast<std::size_t>(result.size()); ++i) {
    live.rows.push_back(rowFrom(result[static_cast<int>(i)], 3));
  }
  live.cut = live.rows.size() > rowLimit_ || payloadBytes(live.rows) >= byteLimit_;
  std::ranges::sort(live.rows, {}, &Row::id);
  return live;
}

OutboxReader::Paged OutboxReader::fetchPage(pqxx::transaction_base& tx,
                                            const Position& from) const {
  const auto result =
      postgres::execute(tx, pageStatement_,
                        {from.done.inProgressArray(), std::to_string(from.done.xmax),
                         from.target.text, std::to_string(from.lastId), std::to_string(rowLimit_),
                         std::to_string(byteLimit_), lanesText(from.lanes)});
  Paged page;
  for (const auto& fields : result) page.rows.push_back(rowFrom(fields, 0));
  page.last = page.rows.size() < rowLimit_ && payloadBytes(page.rows) < byteLimit_;
  std::ranges::sort(page.rows, {}, &Row::id);
  return page;
}

std::optional<std::int64_t> OutboxReader::lowestLateId(pqxx::transaction_base& tx,
                                                       const Snapshot& done) const {
  if (done.inProgress.empty()) return std::nullopt;
  const auto result = postgres::execute(tx, lateStatement_, {done.inProgressArray()});
  if (result[0][0].is_null()) return std::nullopt;
  return integerOf(result[0][0]);
}

PendingCount countPending(pqxx::transaction_base& tx, const std::string& schema) {
  constexpr std::uint64_t kMost = 1'000'000;
  const auto result = tx.exec(inSchema(
      "select count(*), extract(epoch from clock_timestamp() - min(created_at))::float8 from ("
      " select e.created_at from {schema}.outbox e join {schema}.lane l on l.lane = e.lane"
      " where e.xid >= (select min(pg_snapshot_xmin(done)) from {schema}.lane)"
      " and not pg_visible_in_snapshot(e.xid, l.done) and not (l.target is not null"
      " and pg_visible_in_snapshot(e.xid, l.target) and e.id <= l.last_id) limit 1000000) p",
      schema));
  PendingCount count;
  count.events = static_cast<std::uint64_t>(integerOf(result[0][0]));
  count.isMinimum = count.events == kMost;
  if (!result[0][1].is_null()) count.oldestSeconds = result[0][1].as<double>();
  return count;
}

void lockOutWriters(pqxx::transaction_base& tx, const std::string& schema) {
  tx.exec(inSchema("lock table {schema}.outbox in exclusive mode", schema));
}

Stamped stampAnew(pqxx::transaction_base& tx, const std::string& schema,
                  std::chrono::hours republish) {
  const std::string young = "created_at > clock_timestamp() - $1::text::float8 * interval '1 hour'";
  const std::string hours = std::to_string(republish.count());
  const auto unpublished = postgres::execute(
      tx, inSchema("update {schema}.outbox set xid = pg_current_xact_id() where " + young, schema),
      {hours});
  // 3 is the first transaction id that PostgreSQL gives out, long before any outbox was made.
  const auto published = postgres::execute(
      tx, inSchema("update {schema}.outbox set xid = '3' where not (" + young + ")", schema),
      {hours});
  return {unpublished.affected_rows(), published.affected_rows()};
}

int truncatePublished(pqxx::connection& connection, const std::string& schema) {
  int emptied = 0;
  for (int child = 0; child < 8; ++child) {
    pqxx::work tx{connection};
    const auto result =
        postgres::execute(tx, inSchema("select {schema}.truncate_published($1::text::int)", schema),
                          {std::to_string(child)});
    tx.commit();
    if (textOf(result[0][0]) == "truncated") ++emptied;
  }
  return emptied;
}

}  // namespace pillion::outbox
