#include "inbox/inbox_table.hpp"

#include <set>
#include <string_view>
#include <utility>

#include "event/timestamp.hpp"
#include "postgres/array.hpp"
#include "postgres/identifier.hpp"
#include "postgres/statement.hpp"

namespace pillion::inbox {
namespace {

using postgres::execute;
using postgres::inSchema;
using postgres::textOf;

constexpr int kDeleteBatch = 1'000;

/// What outlives a transaction, or reaches from one handler to the next, and is no setting.
constexpr const char* kFreshRest = "select pg_catalog.pg_advisory_unlock_all(); discard temp";

}  // namespace

/// Read committed, since with a snapshot for the whole transaction, a parked event that comes while
/// the one in front is tried would be seen by neither side. The cursor, since one that is to
/// outlive its transaction is read when that commits, and stands in the way of PREPARE TRANSACTION.
std::string guardOf(const std::string& schema) {
  return "close all; " + std::string(kFreshSettings) + "; " + kFreshRest +
         inSchema(
             "; declare pillion_guard no scroll cursor with hold for select"
             " {schema}.refuse_commit()",
             schema);
}

void endGuard(pqxx::transaction_base& tx) {
  // Session locks are not kept until the next transaction: that may not come for long.
  tx.exec("close pillion_guard; select pg_catalog.pg_advisory_unlock_all()");
}

void freshenSession(pqxx::transaction_base& tx, const std::string& savepoint) {
  tx.exec("release savepoint " + savepoint + "; " + kFreshSettings + "; " + kFreshRest);
}

bool anyFunctionSets(pqxx::transaction_base& tx, const std::string& schema) {
  constexpr const char* kSets =
      R"re(set_config|(^|;|\*/|--[^\n]*\n|\mbegin|\mthen|\melse|\mloop)\s*set\s)re"
      R"re(|\mset\s+(local|session|role)\M|execute\s+(format\s*\()?\s*'+\s*set\s)re"
      R"re(|pg_(try_)?advisory_lock|create\s+(local\s+|global\s+)?temp)re";
  const auto any = execute(
      tx,
      "select exists (select from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid ="
      " p.pronamespace where n.nspname not in ('pg_catalog', 'information_schema', $1::text) and"
      " p.prosrc ~* $2::text)",
      {schema, kSets});
  return any[0][0].as<bool>();
}

void prepareClaim(postgres::Session& connection, const std::string& schema) {
  connection.prepare("pillion_claim", inSchema("select new_id, new_source, any_parked from"
                                               " {schema}.claim_events($1::text, $2::text::uuid[],"
                                               " $3::text::text[], $4::text::int)",
                                               schema));
}

Claimed claimIds(pqxx::transaction_base& tx, const std::string& consumer,
                 std::span<const amqp::Identity* const> events,
                 std::chrono::milliseconds patience) {
  using postgres::arrayOf;
  const auto taken = postgres::executePrepared(
      tx, "pillion_claim",
      {consumer, arrayOf(events, [](const auto* event) { return std::string_view(event->id); }),
       arrayOf(events, [](const auto* event) { return std::string_view(event->source); }),
       textOf(patience)});
  Claimed claimed{.isNew = std::vector<bool>(events.size(), false)};
  if (taken.empty()) return claimed;
  claimed.anyParked = textOf(taken[0][2]) == "t";
  std::set<std::pair<std::string_view, std::string_view>> fresh;
  for (const auto& row : taken) {
    fresh.emplace(std::string_view(row[0].c_str(), row[0].size()),
                  std::string_view(row[1].c_str(), row[1].size()));
  }
  for (std::size_t i = 0; i < events.size(); ++i) {
    claimed.isNew[i] = fresh.erase({events[i]->id, events[i]->source}) > 0;
  }
  return claimed;
}

void forgetId(pqxx::transaction_base& tx, const std::string& schema, const std::string& consumer,
              const std::string& eventId, const std::string& source) {
  execute(tx,
          inSchema("delete from {schema}.inbox where consumer = $1::text and event_id ="
                   " $2::text::uuid and source = $3::text",
                   schema),
          {consumer, eventId, source});
}

namespace {

WallTime horizonOf(const pqxx::result& result) {
  return WallTime(std::chrono::milliseconds(postgres::integerOf(result[0][0])));
}

constexpr const char* kReadHorizon =
    "select (extract(epoch from horizon) * 1000)::bigint from {schema}.inbox_horizon";

}  // namespace

WallTime readHorizon(pqxx::transaction_base& tx, const std::string& schema) {
  return horizonOf(tx.exec(inSchema(kReadHorizon, schema)));
}

WallTime lockHorizon(pqxx::transaction_base& tx, const std::string& schema) {
  return horizonOf(tx.exec(inSchema(kReadHorizon, schema) + " for share"));
}

WallTime readClock(pqxx::transaction_base& tx) {
  return horizonOf(
      tx.exec("select (extract(epoch from pg_catalog.clock_timestamp()) * 1000)::bigint"));
}

std::chrono::hours agreeOnWindow(pqxx::transaction_base& tx, const std::string& schema,
                                 const std::string& consumer, std::chrono::hours window) {
  // Instances say it every hour. A consumer that has not been heard of for longer than any window
  // has nothing to remember.
  const auto longest = execute(
      tx,
      inSchema("with own as (insert into {schema}.inbox_window as w (consumer, hours, seen_at)"
               " values ($1::text, $2::text::int, pg_catalog.clock_timestamp()) on conflict"
               " (consumer) do update set hours = excluded.hours, seen_at = excluded.seen_at where"
               " excluded.hours >= w.hours or w.seen_at < excluded.seen_at - interval '3 hours'"
               " returning hours)"
               " select greatest($2::text::int, (select max(hours) from {schema}.inbox_window where"
               " seen_at > pg_catalog.clock_timestamp() - interval '25 days' and (consumer <>"
               " $1::text or not exists (select from own))))",
               schema),
      {consumer, std::to_string(window.count())});
  return std::chrono::hours(postgres::integerOf(longest[0][0]));
}

std::vector<OldChild> childrenBefore(WallTime horizon, WallTime now) {
  std::vector<OldChild> old;
  const auto current =
      std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch()) / kChildSpan;
  for (int back = 1; back < kRing - kChildrenAhead; ++back) {
    const auto span = current - back;
    const WallTime end{(span + 1) * kChildSpan};
    if (end < horizon) old.push_back({static_cast<int>(span % kRing), end});
  }
  return old;
}

bool truncateChild(pqxx::transaction_base& tx, const std::string& schema, const OldChild& old) {
  const std::string child = inSchema("{schema}.", schema) +
                            postgres::quoteIdentifier("inbox_" + std::to_string(old.child));
  if (tx.exec("select 1 from " + child + " limit 1").empty()) return false;
  tx.exec("lock table only " + child + " in access exclusive mode nowait");
  tx.exec("truncate only " + child);
  execute(tx,
          inSchema("update {schema}.inbox_horizon set horizon = greatest(horizon,"
                   " $1::text::timestamptz)",
                   schema),
          {toRfc3339(old.end)});
  return true;
}

bool deleteOther(pqxx::transaction_base& tx, const std::string& schema, const std::string& consumer,
                 WallTime before, WallTime orphansBefore) {
  const auto deleted = execute(
      tx,
      inSchema("delete from {schema}.inbox_other where ctid = any(array(select ctid from"
               " {schema}.inbox_other where applied_at < greatest($2::text::timestamptz,"
               " $3::text::timestamptz) and ((consumer = $1::text and applied_at <"
               " $2::text::timestamptz) or applied_at < $3::text::timestamptz)"
               " limit $4::text::bigint))",
               schema),
      {consumer, toRfc3339(before), toRfc3339(orphansBefore), std::to_string(kDeleteBatch)});
  return deleted.affected_rows() == static_cast<std::size_t>(kDeleteBatch);
}

}  // namespace pillion::inbox
