#include "outbox/lane_table.hpp"

#include <algorithm>
#include <pillion/error.hpp>

#include "postgres/identifier.hpp"
#include "postgres/statement.hpp"

namespace pillion::outbox {
namespace {

using postgres::execute;
using postgres::inSchema;
using postgres::integerOf;
using postgres::textOf;

/// A relay whose database session has ended is gone, whatever its lease says: a killed process is
/// replaced at once. A session that started after the relay did is another one with the same pid;
/// one whose start this role may not see counts as alive.
constexpr const char* kGone =
    "(r.expires_at < clock_timestamp() or (r.backend_pid <> 0 and not exists (select from"
    " pg_stat_activity a where a.pid = r.backend_pid and coalesce(a.backend_start <="
    " r.started_at, true))))";

/// Columns: lane, done, target, last_id, floor_id.
Position positionFrom(const pqxx::row& row) {
  Position position;
  position.lanes = laneBit(static_cast<int>(integerOf(row[0])));
  position.done = Snapshot::parse(textOf(row[1]));
  if (!row[2].is_null()) {
    position.target = Snapshot::parse(textOf(row[2]));
    position.lastId = integerOf(row[3]);
  }
  position.floor = integerOf(row[4]);
  position.targetFloor = position.floor;
  return position;
}

}  // namespace

void requireAllLanes(pqxx::transaction_base& tx, const std::string& schema) {
  const auto result = tx.exec(inSchema("select count(*) from {schema}.lane_position", schema));
  if (integerOf(result[0][0]) == kLanes) return;
  throw SchemaError("table " + schema + ".lane has " + textOf(result[0][0]) + " of its " +
                    std::to_string(kLanes) +
                    " rows: the events of the other lanes would be passed over; run: pillion"
                    " rebase");
}

void resetCursors(pqxx::transaction_base& tx, const std::string& schema) {
  // Relays that are writing a checkpoint or taking lanes come to an end before, and others wait.
  // This lock first, as they do, so that nobody waits in a circle.
  tx.exec(inSchema("lock table {schema}.relay in exclusive mode", schema));
  tx.exec(
      inSchema("insert into {schema}.lane (lane, done) select g, pg_current_snapshot() from"
               " generate_series(0, 63) g where g not in (select lane from {schema}.lane)",
               schema));
  // Not the present snapshot: a transaction does not count itself among those in progress.
  tx.exec(
      inSchema("update {schema}.lane set token = null, target = null, last_id = null,"
               " floor_id = 0, done = (pg_snapshot_xmin(pg_current_snapshot())::text || ':' ||"
               " pg_snapshot_xmin(pg_current_snapshot())::text || ':')::pg_snapshot",
               schema));
  tx.exec(inSchema("delete from {schema}.relay", schema));
}

std::int64_t enterRelay(pqxx::transaction_base& tx, const std::string& schema,
                        const std::string& name, int backend, std::chrono::milliseconds lease) {
  const auto entered = execute(
      tx,
      inSchema("insert into {schema}.relay (name, backend_pid, expires_at) values ($1::text,"
               " $2::text::int, clock_timestamp() + $3::text::float8 * interval '1 ms')"
               " returning token",
               schema),
      {name, std::to_string(backend), textOf(lease)});
  return integerOf(entered[0][0]);
}

LaneShares readShares(pqxx::transaction_base& tx, const std::string& schema, std::int64_t token) {
  const auto result =
      execute(tx,
              inSchema(std::string("with alive as materialized (select token from {schema}.relay r"
                                   " where not fenced and not ") +
                           kGone +
                           ") select (select count(*) from alive), count(*) filter (where l.token ="
                           " $1::text::bigint), count(*) filter (where a.token is null) from"
                           " {schema}.lane l left join alive a on a.token = l.token",
                       schema),
              {std::to_string(token)});
  const auto countAt = [&](int column) { return static_cast<int>(integerOf(result[0][column])); };
  return {.relays = std::max(1, countAt(0)), .mine = countAt(1), .free = countAt(2)};
}

namespace {

/// A row that is locked is passed over: its relay is at work this moment, or another one fences it.
void fenceGone(pqxx::transaction_base& tx, const std::string& schema) {
  // The row lock orders this against a renewal: either that comes first and the row is not expired
  // any more, or it finds itself fenced.
  tx.exec(inSchema(
      std::string(
          "with ended as (update {schema}.relay set fenced = true where token in (select r.token"
          " from {schema}.relay r where not r.fenced and ") +
          kGone +
          " for update skip locked) returning in_hand_id) insert into {schema}.suspect as s (id,"
          " deaths) select in_hand_id, count(*) from ended where in_hand_id is not null group by"
          " in_hand_id on conflict (id) do update set deaths = s.deaths + excluded.deaths",
      schema));
}

/// The condition is on the lane alone: for a row that another relay has taken since this statement
/// began, PostgreSQL looks at it anew, but not at what it is joined with. A fenced relay writes no
/// more, so where it was is final.
constexpr const char* kTake =
    "with free as (select x.lane, x.token as former, x.done is null as joined from {schema}.lane x"
    " where (x.token is null or x.token in (select f.token from {schema}.relay f where f.fenced))"
    " and exists (select from {schema}.relay m where m.token = $1::text::bigint and not m.fenced)"
    " order by x.lane limit $2::text::bigint for update of x skip locked)"
    " update {schema}.lane l set token = $1::text::bigint, done = coalesce(l.done, r.done),"
    " target = coalesce(l.target, r.target), last_id = coalesce(l.last_id, r.last_id),"
    " floor_id = coalesce(r.floor_id, l.floor_id), crashes = l.crashes + case when l.token is null"
    " or l.token = $3::text::bigint then 0 else 1 end from free left join {schema}.relay r on"
    " free.joined and r.token = free.former where l.lane = free.lane returning l.lane,"
    " l.done::text, l.target::text, l.last_id, l.floor_id, l.crashes";

}  // namespace

void takeLanes(pqxx::transaction_base& tx, const std::string& schema, std::int64_t token,
               std::int64_t former, int limit, Balance& balance) {
  // Whoever fences this relay does so before this, or sees the lanes that it takes. Else its row
  // could be deleted while lanes have its token, and nobody could take those any more.
  execute(tx,
          inSchema("select from {schema}.relay where token = $1::text::bigint for update", schema),
          {std::to_string(token)});
  fenceGone(tx, schema);
  const auto taken =
      execute(tx, inSchema(kTake, schema),
              {std::to_string(token), std::to_string(limit), std::to_string(former)});
  tx.exec(
      inSchema("delete from {schema}.relay where token in (select r.token from {schema}.relay r"
               " where r.fenced and not exists (select from {schema}.lane l where l.token ="
               " r.token) for update skip locked)",
               schema));
  for (const auto& row : taken) {
    const Position position = positionFrom(row);
    const int crashes = static_cast<int>(integerOf(row[5]));
    balance.taken.add({{position}});
    balance.crashes = std::max(balance.crashes, crashes);
    if (crashes >= kCrashesToSuspect) balance.endangered |= position.lanes;
  }
}

std::vector<std::int64_t> readBlamed(pqxx::transaction_base& tx, const std::string& schema) {
  std::vector<std::int64_t> ids;
  for (const auto& row : tx.exec(inSchema(
           "select id from {schema}.suspect where deaths >= " + std::to_string(kDeathsToBlame),
           schema))) {
    ids.push_back(integerOf(row[0]));
  }
  tx.exec(
      inSchema("delete from {schema}.suspect where noted_at < clock_timestamp() - interval '1 day'",
               schema));
  return ids;
}

void forgetDeaths(pqxx::transaction_base& tx, const std::string& schema, std::int64_t id) {
  execute(tx, inSchema("delete from {schema}.suspect where id = $1::text::bigint", schema),
          {std::to_string(id)});
}

void writeInHand(pqxx::transaction_base& tx, const std::string& schema, std::int64_t token,
                 std::optional<std::int64_t> id) {
  execute(tx,
          inSchema("update {schema}.relay set in_hand_id = nullif($2::text, '')::bigint where"
                   " token = $1::text::bigint",
                   schema),
          {std::to_string(token), id ? std::to_string(*id) : ""});
}

namespace {

/// Where something is, as assignments whose parameters begin with number `first`.
std::string positionAssignments(int first) {
  const auto parameter = [&](int offset) { return '$' + std::to_string(first + offset); };
  return "done = " + parameter(0) + "::text::pg_snapshot, target = nullif(" + parameter(1) +
         "::text, '')::pg_snapshot, last_id = case when " + parameter(1) + "::text <> '' then " +
         parameter(2) + "::text::bigint end, floor_id = " + parameter(3) + "::text::bigint";
}

void addPosition(postgres::Parameters& parameters, const Position& position) {
  parameters.add(position.done.text);
  parameters.add(position.target.text);
  parameters.add(std::to_string(position.lastId));
  parameters.add(std::to_string(position.floor));
}

/// For updates of lanes `l` that are in the set $2, and are the token's, $1, which is not fenced.
constexpr const char* kOfToken =
    " from {schema}.relay r where l.token = $1::text::bigint and r.token = l.token and not r.fenced"
    " and ($2::text::bigint >> l.lane::int) & 1 = 1";

}  // namespace

std::optional<std::string> renewLease(pqxx::transaction_base& tx, const std::string& schema,
                                      std::int64_t token, std::chrono::milliseconds lease,
                                      const std::optional<Position>& position) {
  postgres::Parameters parameters{std::to_string(token), textOf(lease)};
  if (position) addPosition(parameters, *position);
  const auto renewed = execute(
      tx,
      inSchema("update {schema}.relay set expires_at = clock_timestamp() + $2::text::float8 *"
               " interval '1 ms'" +
                   (position ? ", " + positionAssignments(3) : std::string()) +
                   " where token = $1::text::bigint and not fenced returning"
                   " {schema}.server_state()",
               schema),
      parameters);
  if (renewed.empty()) return std::nullopt;
  return textOf(renewed[0][0]);
}

bool joinLanes(pqxx::transaction_base& tx, const std::string& schema, std::int64_t token,
               Lanes lanes) {
  const auto result =
      execute(tx,
              inSchema(std::string("update {schema}.lane l set done = null, target = null,"
                                   " last_id = null, floor_id = 0, crashes = 0") +
                           kOfToken,
                       schema),
              {std::to_string(token), lanesText(lanes)});
  return static_cast<int>(result.affected_rows()) == countLanes(lanes);
}

bool writePosition(pqxx::transaction_base& tx, const std::string& schema, std::int64_t token,
                   const Position& position, Hold hold) {
  postgres::Parameters parameters{std::to_string(token), lanesText(position.lanes)};
  addPosition(parameters, position);
  // A lane that got no further keeps the number of relays that ended over it.
  const auto result =
      execute(tx,
              inSchema("update {schema}.lane l set " + positionAssignments(3) +
                           ", crashes = case when l.done::text = $3::text and"
                           " coalesce(l.target::text, '') = $4::text and ($4::text = '' or"
                           " l.last_id = $5::text::bigint) then l.crashes else 0 end, token = " +
                           (hold == Hold::Keep ? "l.token" : "null") + kOfToken,
                       schema),
              parameters);
  return static_cast<int>(result.affected_rows()) == countLanes(position.lanes);
}

std::string readLockHolders(pqxx::transaction_base& tx, const std::string& schema) {
  // A lock on a row shows as one on its table. Of another role's session one may see little more
  // than the pid.
  const auto result = tx.exec(inSchema(
      "select string_agg(distinct case when l.pid is null then 'a prepared transaction' else"
      " 'session ' || l.pid || coalesce(' of ' || a.usename, '') || coalesce(' (' ||"
      " nullif(a.application_name, '') || ')', '') || coalesce(', ' || a.state || ' since ' ||"
      " to_char(a.state_change at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC', '') end,"
      " '; ') from pg_locks l left join pg_stat_activity a on a.pid = l.pid where l.granted and"
      " l.relation in ('{schema}.relay'::regclass, '{schema}.lane'::regclass) and l.database ="
      " (select oid from pg_database where datname = current_database()) and l.pid is distinct from"
      " pg_backend_pid() and coalesce(a.xact_start < clock_timestamp() - interval '1 s', true) and"
      " l.mode not in ('AccessShareLock')",
      schema));
  return textOf(result[0][0]);
}

std::string serverState(pqxx::transaction_base& tx, const std::string& schema) {
  return textOf(tx.exec(inSchema("select {schema}.server_state()", schema))[0][0]);
}

void leave(pqxx::transaction_base& tx, const std::string& schema, std::int64_t token) {
  // The relay's row first, as a checkpoint has it; the view still sees it.
  execute(tx,
          inSchema("with gone as (delete from {schema}.relay where token = $1::text::bigint"
                   " returning token) update {schema}.lane l set token = null, done = p.done,"
                   " target = p.target, last_id = p.last_id, floor_id = p.floor_id from gone g"
                   " join {schema}.lane_position p on p.token = g.token where l.token = g.token"
                   " and l.lane = p.lane",
                   schema),
          {std::to_string(token)});
}

std::vector<LaneStatus> readLanes(pqxx::transaction_base& tx, const std::string& schema) {
  std::vector<LaneStatus> lanes;
  const auto result = tx.exec(inSchema(
      std::string("select l.lane, l.done::text, l.target is not null, coalesce(r.token, 0),"
                  " coalesce(r.name, ''), coalesce(") +
          kGone +
          ", false) from {schema}.lane_position l left join {schema}.relay r on r.token = l.token"
          " and not r.fenced order by l.lane",
      schema));
  for (const auto& row : result) {
    LaneStatus lane;
    lane.lane = row[0].as<int>();
    lane.cursor = textOf(row[1]);
    lane.paging = row[2].as<bool>();
    lane.token = integerOf(row[3]);
    lane.holder = textOf(row[4]);
    lane.holderGone = lane.token != 0 && row[5].as<bool>();
    lanes.push_back(lane);
  }
  return lanes;
}

}  // namespace pillion::outbox
