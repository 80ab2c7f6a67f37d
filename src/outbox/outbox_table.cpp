#include "outbox/outbox_table.hpp"

#include <algorithm>
#include <iterator>

#include "postgres/identifier.hpp"

namespace pillion::outbox {
namespace {

using postgres::inSchema;
using postgres::integerOf;
using postgres::Parameters;
using postgres::textOf;

std::size_t payloadBytes(const std::vector<Row>& rows) {
  std::size_t bytes = 0;
  for (const Row& row : rows) bytes += row.payload.size();
  return bytes;
}

/// In id order. The first row of a fetch tells of the server and carries no event.
std::vector<Row> rowsBehindFirst(const pqxx::result& result, int at) {
  std::vector<Row> rows;
  rows.reserve(static_cast<std::size_t>(result.size()));
  for (auto fields = std::next(result.begin()); fields != result.end(); ++fields) {
    rows.push_back(rowFrom(*fields, at));
  }
  if (!std::ranges::is_sorted(rows, {}, &Row::id)) std::ranges::sort(rows, {}, &Row::id);
  return rows;
}

}  // namespace

std::string insertStatement(const std::string& schema, std::size_t rows, Columns columns) {
  // The lane of a key is worked out here, once and for all (see lane_of); without a key it follows
  // from the id.
  std::string sql = postgres::inSchemaAsAscii(
      "insert into {schema}.outbox (lane, " + eventColumns(columns) + ") values ", schema);
  std::size_t next = 1;
  for (std::size_t row = 0; row < rows; ++row) {
    sql += row == 0 ? "(" : ", (";
    sql += "(pg_catalog.hashtextextended(nullif(" + textParameter(next + kKeyColumn) +
           ", ''), 0) operator(pg_catalog.&) 63)::pg_catalog.int2, ";
    sql += eventParameters(next, columns) + ')';
  }
  return sql;
}

OutboxReader::OutboxReader(const std::string& schema, std::size_t byteLimit)
    : liveStatement_(inSchema("select * from {schema}.fetch_live($1::text::xid8[], $2::text::xid8,"
                              " $3::text::bigint, $4::text::bigint, $5::text::bigint)",
                              schema)),
      pageStatement_(inSchema("select * from {schema}.fetch_page($1::text::xid8[], $2::text::xid8,"
                              " $3::text::pg_snapshot, $4::text::bigint, $5::text::bigint,"
                              " $6::text::bigint, $7::text::bigint)",
                              schema)),
      lateStatement_(inSchema("select {schema}.lowest_late_id($1::text::xid8[])", schema)),
      byteLimit_(byteLimit) {}

OutboxReader::Live OutboxReader::fetchLive(pqxx::transaction_base& tx, const Position& from,
                                           std::size_t limit) const {
  const auto result = postgres::execute(
      tx, liveStatement_,
      {from.done.inProgressArray(), std::to_string(from.done.xmax), std::to_string(limit + 1),
       std::to_string(byteLimit_), lanesText(from.lanes)});
  Live live;
  live.now = Snapshot::parse(textOf(result[0][0]));
  live.lastId = integerOf(result[0][1]);
  live.server = textOf(result[0][2]);
  live.rows = rowsBehindFirst(result, 3);
  live.cut = live.rows.size() > limit || payloadBytes(live.rows) >= byteLimit_;
  return live;
}

OutboxReader::Paged OutboxReader::fetchPage(pqxx::transaction_base& tx, const Position& from,
                                            std::size_t limit) const {
  const auto result =
      postgres::execute(tx, pageStatement_,
                        {from.done.inProgressArray(), std::to_string(from.done.xmax),
                         from.target.text, std::to_string(from.lastId), std::to_string(limit),
                         std::to_string(byteLimit_), lanesText(from.lanes)});
  Paged page;
  page.server = textOf(result[0][0]);
  page.rows = rowsBehindFirst(result, 1);
  page.last = page.rows.size() < limit && payloadBytes(page.rows) < byteLimit_;
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
      " select e.created_at from {schema}.outbox e join {schema}.lane_position l on l.lane ="
      " {schema}.lane_of(e.lane, e.key, e.id)"
      " where e.xid >= (select min(pg_snapshot_xmin(done)) from {schema}.lane_position)"
      " and not {schema}.is_published(e.xid, e.id, l) limit 1000000) p",
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

Stamped countByAge(pqxx::transaction_base& tx, const std::string& schema,
                   std::chrono::hours republish) {
  const auto result = postgres::execute(
      tx,
      inSchema("select count(*) filter (where created_at > clock_timestamp() - $1::text::float8 *"
               " interval '1 hour'), count(*) from {schema}.outbox",
               schema),
      {std::to_string(republish.count())});
  const auto young = static_cast<std::uint64_t>(integerOf(result[0][0]));
  return {young, static_cast<std::uint64_t>(integerOf(result[0][1])) - young};
}

Stamped stampAnew(pqxx::transaction_base& tx, const std::string& schema,
                  std::chrono::hours republish) {
  // One limit for all rows, whatever time passes meanwhile. 3 is the first transaction id that
  // PostgreSQL gives out, long before any outbox was made.
  postgres::execute(
      tx,
      inSchema("update {schema}.outbox set xid = case when created_at > statement_timestamp() -"
               " $1::text::float8 * interval '1 hour' then pg_current_xact_id() else '3' end",
               schema),
      {std::to_string(republish.count())});
  const auto counted = tx.exec(
      inSchema("select count(*) filter (where xid <> '3'), count(*) filter (where xid = '3') from"
               " {schema}.outbox",
               schema));
  return {static_cast<std::uint64_t>(integerOf(counted[0][0])),
          static_cast<std::uint64_t>(integerOf(counted[0][1]))};
}

namespace {

/// One child, in a transaction of its own. A child that cannot be emptied now costs space, and a
/// moment of the relay's time at most; it must not cost more.
std::string truncateChild(postgres::Session& connection, const std::string& schema, int child,
                          std::chrono::seconds keep) {
  // Not a dbtransaction of libpqxx: a role's default isolation level may be another one.
  pqxx::nontransaction tx{connection};
  tx.exec(
      "begin isolation level read committed; set local statement_timeout = '250ms';"
      " set local lock_timeout = '100ms'");
  try {
    const auto result = postgres::execute(
        tx,
        inSchema("select {schema}.truncate_published($1::text::int, $2::text::float8 * interval"
                 " '1 s')",
                 schema),
        {std::to_string(child), std::to_string(keep.count())});
    tx.exec("commit");
    return textOf(result[0][0]);
  } catch (const pqxx::insufficient_privilege&) {
    tx.exec("rollback");
    return "sqlstate 42501";  // which libpqxx 6 leaves out of this one
  } catch (const pqxx::sql_error& error) {
    tx.exec("rollback");
    return "sqlstate " + error.sqlstate();
  }
}

}  // namespace

std::map<std::string, int> truncatePublished(postgres::Session& connection,
                                             const std::string& schema, std::chrono::seconds keep) {
  std::map<std::string, int> outcomes;
  for (int child = 0; child < kRingChildren; ++child) {
    ++outcomes[truncateChild(connection, schema, child, keep)];
  }
  return outcomes;
}

bool rotateRing(pqxx::transaction_base& tx, const std::string& schema, std::chrono::seconds age) {
  const auto result = postgres::execute(
      tx, inSchema("select {schema}.rotate_ring($1::text::float8 * interval '1 s')", schema),
      {std::to_string(age.count())});
  return result[0][0].as<bool>();
}

bool notifies(pqxx::transaction_base& tx, const std::string& schema) {
  const auto result = postgres::execute(
      tx,
      "select exists (select from pg_trigger t join pg_class c on c.oid = t.tgrelid join"
      " pg_namespace n on n.oid = c.relnamespace where n.nspname = $1::text and c.relname ="
      " 'outbox' and t.tgname = 'notify_idle_relays')",
      {schema});
  return result[0][0].as<bool>();
}

std::string notifyChannel(postgres::Session& connection, const std::string& schema) {
  pqxx::work tx{connection};
  return "pillion." +
         textOf(tx.exec(inSchema("select '{schema}.outbox'::regclass::oid::text", schema))[0][0]);
}

void setIdle(pqxx::transaction_base& tx, const std::string& schema, bool idle) {
  tx.exec(inSchema(idle ? "select {schema}.raise_idle_flag()" : "select {schema}.lower_idle_flag()",
                   schema));
}

RingSize measureRing(pqxx::transaction_base& tx, const std::string& schema) {
  RingSize ring;
  for (int child = 0; child < kRingChildren; ++child) {
    const std::string name = "{schema}.outbox_" + std::to_string(child);
    const auto result =
        tx.exec(inSchema("select exists (select from " + name +
                             "), pg_total_relation_size(c.oid) from pg_class c join pg_namespace n"
                             " on n.oid = c.relnamespace where c.relname = 'outbox_" +
                             std::to_string(child) + "' and quote_ident(n.nspname) = quote_ident(" +
                             tx.quote(schema) + ")",
                         schema));
    if (result[0][0].as<bool>()) ++ring.childrenInUse;
    ring.bytes += static_cast<std::uint64_t>(integerOf(result[0][1]));
  }
  return ring;
}

Replayed replayBatch(pqxx::transaction_base& tx, const std::string& schema,
                     const ReplayRange& range, ReplayMode mode) {
  const std::string published =
      "select o.* from {schema}.outbox o join {schema}.lane_position l on l.lane ="
      " {schema}.lane_of(o.lane, o.key, o.id)"
      " where o.id > $1::text::bigint and o.id <= $2::text::bigint"
      " and {schema}.is_published(o.xid, o.id, l)"
      " and ($3::text = '' or o.created_at >= nullif($3::text, '')::timestamptz)"
      " and ($4::text = '' or o.created_at < nullif($4::text, '')::timestamptz)"
      " and ($5::text = '' or '.' || o.type ~ $5::text)"
      " and ($6::text = '' or o.key = $6::text)"
      " order by o.id limit $7::text::bigint";
  const std::string columns = eventColumns(Columns::All);
  const std::string copied = mode == ReplayMode::AsNew
                                 ? "{schema}.new_event_id()" + columns.substr(columns.find(','))
                                 : columns;
  const std::string copy = mode == ReplayMode::Count
                               ? ""
                               : ", copied as (insert into {schema}.outbox (" + columns +
                                     ") select " + copied + " from source order by id)";
  const auto result =
      postgres::execute(tx,
                        inSchema("with source as materialized (" + published + ")" + copy +
                                     " select count(*), max(id) from source",
                                 schema),
                        {std::to_string(range.afterId), std::to_string(range.upToId), range.from,
                         range.to, range.typePattern, range.key, std::to_string(range.limit)});
  Replayed replayed;
  replayed.events = static_cast<std::uint64_t>(integerOf(result[0][0]));
  if (replayed.events > 0) replayed.lastId = integerOf(result[0][1]);
  return replayed;
}

std::int64_t lastEventId(pqxx::transaction_base& tx, const std::string& schema) {
  return integerOf(tx.exec(inSchema(
      "select coalesce(pg_sequence_last_value('{schema}.outbox_id_seq'), 1)", schema))[0][0]);
}

}  // namespace pillion::outbox
