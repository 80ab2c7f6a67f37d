#include "outbox/postgres_event_log.hpp"

#include <algorithm>
#include <pillion/error.hpp>

#include "migrate/schema_check.hpp"
#include "outbox/lane_table.hpp"
#include "outbox/parked_table.hpp"
#include "postgres/connection.hpp"

namespace pillion::outbox {
namespace {

/// The ring's children have no statistics, on purpose, so the planner must not guess: every fetch
/// is an ordered index range. Checkpoints need not wait for the disk, since losing one only repeats
/// events.
constexpr const char* kSession =
    "set enable_seqscan = off; set enable_bitmapscan = off; set enable_sort = off;"
    " set max_parallel_workers_per_gather = 0; set jit = off;"
    " set plan_cache_mode = force_generic_plan; set synchronous_commit = off;"
    " set bytea_output = hex; set datestyle = 'ISO'; set idle_in_transaction_session_timeout = "
    "'60s'";

}  // namespace

PostgresEventLog::PostgresEventLog(const EventLogOptions& options)
    : options_(options),
      schema_(postgres::schemaOf(options.database)),
      connection_(postgres::connect(options.database, "relay")) {
  postgres::guarded("opening the outbox", [&] {
    {
      pqxx::nontransaction tx{*connection_};
      migrate::requireCurrentSchema(tx, schema_);
      requireOwnCluster(tx, schema_);
      identity_ = outboxIdentity(tx, schema_);
      tx.exec(kSession);
    }
    reader_.emplace(*connection_, schema_, options_.pageEvents, options_.pageBytes);
  });
}

std::optional<Cursor> PostgresEventLog::claim() {
  std::optional<Cursor> cursor;
  postgres::guarded("claiming the lanes", [&] {
    pqxx::work tx{*connection_};
    if (!lanesAreFree(tx, schema_)) return;
    const auto token = takeAllLanes(tx, schema_, options_.relayName, options_.lease);
    if (!token) return;
    cursor = readCursor(tx, schema_, *token);
    tx.commit();
    token_ = *token;
  });
  return cursor;
}

Page PostgresEventLog::fetch(const Cursor& from) {
  Page page;
  postgres::guarded("reading the outbox",
                    [&] { page = from.paging() ? backlogPage(from) : livePage(from); });
  return page;
}

Page PostgresEventLog::livePage(const Cursor& from) {
  const std::int64_t floor = std::max(from.floor, provenFloor_);
  OutboxReader::Live live = reader_->fetchLive(from.done);
  rememberServer(live.server);
  lastIdSeen_ = live.lastId;
  Page page;
  if (!live.cut) {
    page.rows = std::move(live.rows);
    page.after.done = std::move(live.now);
    page.after.floor = floor;
    page.after.targetFloor = floor;
    return page;
  }
  // More than a page: freeze where it ends, and page to there by id. Cutting by transaction would
  // break the order of keys.
  Cursor backlog = from;
  backlog.target = std::move(live.now);
  backlog.targetFloor = floor;
  backlog.lastId = from.floor - 1;  // an unused sequence shows 1 before it has given 1 out
  if (const auto late = reader_->lowestLateId(from.done)) {
    backlog.lastId = std::min(backlog.lastId, *late - 1);
  }
  return backlogPage(backlog);
}

Page PostgresEventLog::backlogPage(const Cursor& from) {
  OutboxReader::Paged paged = reader_->fetchPage(from.done, from.target, from.lastId);
  Page page;
  page.more = true;  // at least what was committed since the target was frozen
  if (paged.last) {
    page.after.done = from.target;
    page.after.floor = from.targetFloor;
    page.after.targetFloor = from.targetFloor;
  } else {
    page.after = from;
    page.after.lastId = paged.rows.back().id;
  }
  page.rows = std::move(paged.rows);
  return page;
}

void PostgresEventLog::rememberServer(const std::string& server) {
  if (server_.empty()) server_ = server;
  if (server_ == server) return;
  throw DatabaseError(DatabaseError::Kind::Unavailable,
                      "PostgreSQL behind this connection restarted or failed over");
}

bool PostgresEventLog::checkpoint(const Checkpoint& checkpoint) {
  bool mine = false;
  postgres::guarded("writing the checkpoint", [&] {
    const std::int64_t seenBefore = lastIdSeen_;
    pqxx::work tx{*connection_};
    mine = checkpoint.cursorMoved
               ? writeCursor(tx, schema_, token_, options_.lease, checkpoint.cursor)
               : renewLease(tx, schema_, token_, options_.lease);
    if (!mine) return;
    park(tx, schema_, checkpoint.park);
    unpark(tx, schema_, checkpoint.unpark);
    markRefused(tx, schema_, checkpoint.refuse);
    countAttempts(tx, schema_, checkpoint.stillParked);
    tx.commit();
    // Whoever gets a transaction id after ours gets his event ids after what we had seen.
    provenFloor_ = std::max(provenFloor_, seenBefore);
  });
  return mine;
}

void PostgresEventLog::release() {
  postgres::guarded("giving the lanes back", [&] {
    pqxx::work tx{*connection_};
    giveLanesBack(tx, schema_, token_);
    tx.commit();
  });
}

std::vector<std::string> PostgresEventLog::parkedTypes() {
  std::vector<std::string> types;
  postgres::guarded("reading the parked events", [&] {
    pqxx::nontransaction tx{*connection_};
    types = outbox::parkedTypes(tx, schema_);
  });
  return types;
}

std::vector<Row> PostgresEventLog::fetchParked(const std::string& type, std::size_t limit) {
  std::vector<Row> rows;
  postgres::guarded("reading the parked events", [&] {
    pqxx::nontransaction tx{*connection_};
    rows = readParked(tx, schema_, type, limit);
  });
  return rows;
}

void PostgresEventLog::reclaimSpace() {
  postgres::guarded("emptying the ring", [&] { truncatePublished(*connection_, schema_); });
}

}  // namespace pillion::outbox
