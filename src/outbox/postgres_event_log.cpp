#include "outbox/postgres_event_log.hpp"

#include <spdlog/spdlog.h>
#include <algorithm>
#include <functional>
#include <iterator>
#include <pillion/error.hpp>
#include <pillion/log.hpp>

#include "migrate/schema_check.hpp"
#include "outbox/lane_table.hpp"
#include "outbox/parked_table.hpp"
#include "outbox/scheduled_table.hpp"
#include "postgres/connection.hpp"

namespace pillion::outbox {
namespace {

/// For one transaction, since a pooler in transaction mode keeps no session. A checkpoint need not
/// wait for the disk: losing one only repeats events. Parking copies from the ring, whose children
/// have no statistics, so the planner must not guess.
constexpr const char* kCheckpointSettings =
    "set local synchronous_commit = off; set local enable_seqscan = off;"
    " set local enable_bitmapscan = off; set local jit = off;"
    " set local idle_in_transaction_session_timeout = '60s'";

/// A child of the ring is some megabytes even when it is empty of news, so not for every minute.
constexpr std::chrono::hours kLeastRotation{1};

/// Somebody may schedule an event that is due sooner than those there are.
constexpr std::chrono::milliseconds kAskForDue{250};

/// A right that is missing after the first contact is a loss of the database like any other: what
/// was to be written is not, so whoever asked must not go on.
void asked(const std::string& doing, const std::function<void()>& work) {
  try {
    postgres::guarded(doing, work);
  } catch (const ConfigError& error) {
    throw DatabaseError(DatabaseError::Kind::Refused, error.what());
  } catch (const SchemaError& error) {
    throw DatabaseError(DatabaseError::Kind::Refused, error.what());
  }
}

void requireHexBytes(pqxx::transaction_base& tx) {
  const auto result = tx.exec("show bytea_output");
  if (postgres::textOf(result[0][0]) == "hex") return;
  throw ConfigError(
      "bytea_output of this role or database is not hex; run: alter role … set bytea_output = hex");
}

}  // namespace

PostgresEventLog::PostgresEventLog(const EventLogOptions& options)
    : options_(options),
      schema_(postgres::schemaOf(options.database)),
      connection_(postgres::connect(options.database, "relay")),
      reader_(schema_, options.pageEvents, options.pageBytes) {
  postgres::guarded("opening the outbox", [&] {
    pqxx::work tx{*connection_};
    migrate::requireCurrentSchema(tx, schema_);
    requireOwnCluster(tx, schema_);
    requireHexBytes(tx);
    identity_ = outboxIdentity(tx, schema_);
    // Behind a pooler the session's life is not ours.
    const bool shared = postgres::sharesSession(tx);
    backend_ = shared || !options_.endsWithSession ? 0 : connection_->backendpid();
    server_ = serverState(tx, schema_);
  });
}

template <typename Result, typename Read>
Result PostgresEventLog::readParkedEvents(const Read& read) {
  Result result;
  asked("reading the parked events", [&] {
    pqxx::nontransaction tx{*connection_};
    result = read(tx);
  });
  return result;
}

Balance PostgresEventLog::balance() {
  Balance balance;
  asked("sharing the lanes", [&] {
    pqxx::work tx{*connection_};
    tx.exec("set transaction isolation level read committed");  // whatever the role's default is
    if (token_ == 0) {
      token_ = enterRelay(tx, schema_, options_.relayName, backend_, options_.lease);
    }
    const LaneShares shares = readShares(tx, schema_, token_);
    const int wanted = shares.fair() - shares.mine;
    if (wanted > 0 && shares.free > 0) {
      takeLanes(tx, schema_, token_, options_.formerToken, wanted, balance);
      written_.took(balance.taken);
    }
    if (balance.endangered != 0) {
      for (const auto id : readBlamed(tx, schema_)) balance.suspects.insert(id);
      for (const auto id : readSuspects(tx, schema_, balance.endangered)) {
        balance.suspects.insert(id);
      }
    }
    balance.surplus = std::max(0, -wanted);
    tx.commit();
  });
  return balance;
}

int PostgresEventLog::relaysAlive() {
  int relays = 1;
  asked("looking for other relays", [&] {
    pqxx::work tx{*connection_};
    relays = readShares(tx, schema_, token_).relays;
  });
  return relays;
}

Page PostgresEventLog::fetch(const Cursor& from) {
  Page page;
  asked("reading the outbox", [&] { page = nextPage(from); });
  return page;
}

// Lanes at different positions are read in turns, so that the backlog of some does not hold up the
// others; when none of them has one, all are read up to the same snapshot, and are at one position
// from there on.
Page PostgresEventLog::nextPage(const Cursor& from) {
  const auto& positions = from.positions;
  const bool anyPaging = std::ranges::any_of(positions, &Position::paging);
  if (positions.size() > 1 && !anyPaging) return meetingPage(from);
  const std::size_t chosen = turnOf_++ % positions.size();
  pqxx::nontransaction tx{*connection_};
  Page page = positions[chosen].paging() ? backlogPage(tx, positions[chosen])
                                         : livePage(tx, positions[chosen]);
  page.more = page.more || anyPaging;
  Cursor others = from;
  others.take(positions[chosen].lanes);
  page.after.add(others);
  return page;
}

Page PostgresEventLog::meetingPage(const Cursor& from) {
  postgres::SnapshotTransaction tx{*connection_};
  Page all;
  for (const Position& position : from.positions) {
    Page page = livePage(tx, position);
    std::ranges::move(page.rows, std::back_inserter(all.rows));
    all.after.add(page.after);
    all.more = all.more || page.more;
  }
  tx.commit();
  std::ranges::sort(all.rows, {}, &Row::id);
  return all;
}

Page PostgresEventLog::livePage(pqxx::transaction_base& tx, const Position& from) {
  const std::int64_t floor = std::max(from.floor, provenFloor_);
  OutboxReader::Live live = reader_.fetchLive(tx, from);
  requireSameServer(live.server, live.lastId);
  Page page;
  if (!live.cut) {
    page.rows = std::move(live.rows);
    page.after.positions.push_back({.lanes = from.lanes,
                                    .done = std::move(live.now),
                                    .target = {},
                                    .lastId = 0,
                                    .floor = floor,
                                    .targetFloor = floor});
    return page;
  }
  // More than a page: freeze where it ends, and page to there by id. Cutting by transaction would
  // break the order of keys.
  Position backlog = from;
  backlog.target = std::move(live.now);
  backlog.targetFloor = floor;
  backlog.lastId = from.floor - 1;  // an unused sequence shows 1 before it has given 1 out
  if (const auto late = reader_.lowestLateId(tx, from.done)) {
    backlog.lastId = std::min(backlog.lastId, *late - 1);
  }
  return backlogPage(tx, backlog);
}

Page PostgresEventLog::backlogPage(pqxx::transaction_base& tx, const Position& from) {
  OutboxReader::Paged paged = reader_.fetchPage(tx, from);
  requireSameServer(paged.server, lastIdSeen_);
  Page page;
  page.more = true;  // at least what was committed since the target was frozen
  Position after = from;
  if (paged.last) {
    after.done = from.target;
    after.target = {};
    after.lastId = 0;
    after.floor = from.targetFloor;
  } else {
    after.lastId = paged.rows.back().id;
  }
  page.after.positions.push_back(std::move(after));
  page.rows = std::move(paged.rows);
  return page;
}

/// A pooler hides that the server behind it is another one now. There, transaction ids may have
/// been given out anew that the cursor in memory takes for published.
void PostgresEventLog::requireSameServer(const std::string& state, std::int64_t lastId) {
  // A sequence never goes back, but for a restored or rewound server.
  if (state == server_ && lastId >= lastIdSeen_) {
    lastIdSeen_ = lastId;
    return;
  }
  throw DatabaseError(DatabaseError::Kind::Unavailable,
                      "PostgreSQL behind this connection restarted or failed over");
}

bool PostgresEventLog::checkpoint(const Checkpoint& checkpoint) {
  if (token_ == 0) return true;  // holds nothing yet
  bool mine = false;
  asked("writing the checkpoint", [&] {
    const std::int64_t seenBefore = lastIdSeen_;
    pqxx::work tx{*connection_};
    tx.exec(kCheckpointSettings);
    mine = writeCursor(tx, checkpoint);
    if (!mine) return;
    writeParked(tx, schema_, checkpoint.parked);
    tx.commit();
    // Whoever gets a transaction id after ours gets his event ids after what we had seen.
    provenFloor_ = std::max(provenFloor_, seenBefore);
  });
  return mine;
}

bool PostgresEventLog::writeCursor(pqxx::transaction_base& tx, const Checkpoint& checkpoint) {
  const auto write = [&](Hold hold) {
    return [&, hold](const Position& position) {
      return writePosition(tx, schema_, token_, position, hold);
    };
  };
  const Lanes given = checkpoint.give.lanes();
  const CursorWrites writes =
      checkpoint.cursorMoved ? written_.writesFor(checkpoint.cursor, given) : CursorWrites{};
  const auto server = renewLease(tx, schema_, token_, options_.lease, writes.main);
  if (!server) return false;
  requireSameServer(*server, lastIdSeen_);
  if (writes.join != 0 && !joinLanes(tx, schema_, token_, writes.join)) return false;
  if (!std::ranges::all_of(writes.apart, write(Hold::Keep)) ||
      !std::ranges::all_of(checkpoint.give.positions, write(Hold::Give))) {
    return false;
  }
  written_.wrote(writes);
  written_.gave(given);
  return true;
}

void PostgresEventLog::release() {
  asked("giving the lanes back", [&] {
    pqxx::work tx{*connection_};
    leave(tx, schema_, token_);
    tx.commit();
    token_ = 0;
    written_ = {};
  });
}

void PostgresEventLog::suspect(std::optional<std::int64_t> id) {
  asked("noting what is sent", [&] {
    pqxx::work tx{*connection_};
    tx.exec("set local synchronous_commit = off");  // our end, not the server's, is what it is for
    writeSuspect(tx, schema_, token_, id);
    tx.commit();
  });
}

ParkedSummary PostgresEventLog::parkedSummary(Lanes lanes, const HoldPolicy& hold) {
  return readParkedEvents<ParkedSummary>(
      [&](pqxx::transaction_base& tx) { return summarizeParked(tx, schema_, lanes, hold); });
}

std::vector<Row> PostgresEventLog::fetchParked(const std::string& type, Lanes lanes,
                                               std::size_t limit) {
  return readParkedEvents<std::vector<Row>>([&](pqxx::transaction_base& tx) {
    return readUnroutable(tx, schema_, type, lanes, {limit, options_.pageBytes});
  });
}

HeldRows PostgresEventLog::fetchHeld(const std::vector<std::string>& keys, const HoldPolicy& hold) {
  return readParkedEvents<HeldRows>([&](pqxx::transaction_base& tx) {
    return readHeld(tx, schema_, keys, hold, {options_.pageEvents, options_.pageBytes});
  });
}

std::vector<Row> PostgresEventLog::fetchRefused(Lanes lanes, std::int64_t after) {
  return readParkedEvents<std::vector<Row>>(
      [&](pqxx::transaction_base& tx) { return readRefused(tx, schema_, lanes, after); });
}

std::chrono::milliseconds PostgresEventLog::moveDue() {
  MovedDue moved;
  asked("moving events that are due", [&] {
    pqxx::work tx{*connection_};
    tx.exec("set transaction isolation level read committed");  // whatever the role's default is
    moved = outbox::moveDue(tx, schema_, options_.pageEvents, options_.pageBytes);
    tx.commit();
  });
  return std::min(moved.nextIn.value_or(kAskForDue), kAskForDue);
}

void PostgresEventLog::setIdle(bool idle) {
  asked("telling writers whether to wake us", [&] {
    pqxx::work tx{*connection_};
    outbox::setIdle(tx, schema_, idle);
    tx.commit();
    if (!idle) return;
    pqxx::work later{*connection_};  // see raise_idle_flag
    later.exec("select pg_current_xact_id()");
    later.commit();
  });
}

void PostgresEventLog::reclaimSpace() {
  asked("emptying the ring", [&] {
    try {
      pqxx::work tx{*connection_};
      rotateRing(tx, schema_, std::max<std::chrono::seconds>(options_.retention, kLeastRotation));
      tx.commit();
    } catch (const pqxx::sql_error& error) {
      // Space, not delivery: a right that is missing must not stop the relay.
      if (said_.insert("turn").second) {
        logger()->warn("the ring of the outbox cannot be turned: {}",
                       postgres::firstLine(error.what()));
      }
    }
    for (const auto& [outcome, children] :
         truncatePublished(*connection_, schema_, options_.retention)) {
      if (!outcome.starts_with("sqlstate") || !said_.insert(outcome).second) continue;
      logger()->warn(
          "{} of {} parts of the outbox could not be emptied ({}); space waits, "
          "delivery does not",
          children, kRingChildren, outcome);
    }
  });
}

}  // namespace pillion::outbox
