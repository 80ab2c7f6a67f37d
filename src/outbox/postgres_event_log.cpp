#include "outbox/postgres_event_log.hpp"

#include <algorithm>
#include <iterator>
#include <pillion/error.hpp>

#include "migrate/meta_table.hpp"
#include "migrate/schema_check.hpp"
#include "outbox/lane_table.hpp"
#include "outbox/parked_table.hpp"
#include "outbox/sequence_table.hpp"

namespace pillion::outbox {
namespace {

/// A checkpoint need not wait for the disk: losing one only repeats events. Parking copies from the
/// ring, whose children have no statistics, so the planner must not guess.
constexpr const char* kCheckpointSettings =
    "; set local synchronous_commit = off; set local enable_seqscan = off;"
    " set local enable_bitmapscan = off; set local jit = off";

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
      connection_(postgres::connect(options.database, "relay", options.bound)),
      reader_(schema_, options.pageBytes) {
  postgres::guarded(*connection_, "opening the outbox", [&] {
    pqxx::work tx{*connection_};
    migrate::requireCurrentSchema(tx, schema_);
    migrate::requireOwnCluster(tx, schema_);
    requireAllLanes(tx, schema_);
    requireSequences(tx, schema_);
    requireHexBytes(tx);
    identity_ = migrate::outboxIdentity(tx, schema_);
    // Behind a pooler the session's life is not ours.
    const bool shared = postgres::sharesSession(tx);
    backend_ = shared || !options_.endsWithSession ? 0 : (*connection_)->backendpid();
    server_ = serverState(tx, schema_);
  });
}

/// A right that is missing after the first contact is a loss of the database like any other: what
/// was to be written is not, so whoever asked must not go on.
void PostgresEventLog::asked(const std::string& doing, const std::function<void()>& work) {
  try {
    postgres::guarded(*connection_, doing, work);
  } catch (const postgres::LockTimeout& error) {
    throw DatabaseError(DatabaseError::Kind::Unavailable, error.what() + lockHolders());
  } catch (const ConfigError& error) {
    throw DatabaseError(DatabaseError::Kind::Refused, error.what());
  } catch (const SchemaError& error) {
    throw DatabaseError(DatabaseError::Kind::Refused, error.what());
  }
}

std::string PostgresEventLog::lockHolders() {
  std::string holders;
  try {
    postgres::guarded(*connection_, "looking for who holds a lock", [&] {
      pqxx::work tx{*connection_};
      holders = readLockHolders(tx, schema_);
    });
  } catch (const Error&) {
    return "";  // what the caller has to say is worth more
  }
  return holders.empty() ? "" : "; locks are held there by: " + holders;
}

Balance PostgresEventLog::balance() {
  Balance balance;
  asked("sharing the lanes", [&] {
    pqxx::work tx{*connection_};
    tx.exec(postgres::kOwnTransaction);
    if (token_ == 0) {
      token_ = enterRelay(tx, schema_, options_.relayName, backend_, options_.lease);
    }
    const LaneShares shares = readShares(tx, schema_, token_);
    const int wanted = shares.fair() - shares.mine;
    if (wanted > 0 && shares.free > 0) {
      takeLanes(tx, schema_, token_, options_.formerToken, wanted, balance);
      written_.took(balance.taken);
      balance.locked = std::min(wanted, shares.free) - countLanes(balance.taken.lanes());
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
    tx.exec(postgres::kOwnTransaction);
    relays = readShares(tx, schema_, token_).relays;
  });
  return relays;
}

Page PostgresEventLog::fetch(const Cursor& from, std::size_t limit) {
  Page page;
  asked("reading the outbox", [&] { page = nextPage(from, limit); });
  return page;
}

// Lanes at different positions are read in turns, so that the backlog of some does not hold up the
// others; when none of them has one, all are read up to the same snapshot, and are at one position
// from there on.
Page PostgresEventLog::nextPage(const Cursor& from, std::size_t limit) {
  const auto& positions = from.positions;
  const bool anyPaging = std::ranges::any_of(positions, &Position::paging);
  if (positions.size() > 1 && !anyPaging) return meetingPage(from, limit);
  const std::size_t chosen = turnOf_++ % positions.size();
  pqxx::nontransaction tx{*connection_};
  Page page = positions[chosen].paging() ? backlogPage(tx, positions[chosen], limit)
                                         : livePage(tx, positions[chosen], limit);
  page.more = page.more || anyPaging;
  Cursor others = from;
  others.take(positions[chosen].lanes);
  page.after.add(others);
  return page;
}

Page PostgresEventLog::meetingPage(const Cursor& from, std::size_t limit) {
  postgres::SnapshotTransaction tx{*connection_};
  Page all;
  const std::size_t first = turnOf_++;
  for (std::size_t i = 0; i < from.positions.size(); ++i) {
    const Position& position = from.positions[(first + i) % from.positions.size()];
    if (all.rows.size() == limit) {  // the rest meets them another time
      all.after.add({{position}});
      all.more = true;
      continue;
    }
    Page page = livePage(tx, position, limit - all.rows.size());
    std::ranges::move(page.rows, std::back_inserter(all.rows));
    all.after.add(page.after);
    all.more = all.more || page.more;
  }
  tx.commit();
  std::ranges::sort(all.rows, {}, &Row::id);
  return all;
}

Page PostgresEventLog::livePage(pqxx::transaction_base& tx, const Position& from,
                                std::size_t limit) {
  const std::int64_t floor = std::max(from.floor, provenFloor_);
  OutboxReader::Live live = reader_.fetchLive(tx, from, limit);
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
  return backlogPage(tx, backlog, limit);
}

Page PostgresEventLog::backlogPage(pqxx::transaction_base& tx, const Position& from,
                                   std::size_t limit) {
  OutboxReader::Paged paged = reader_.fetchPage(tx, from, limit);
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

void PostgresEventLog::checkpoint(const Checkpoint& checkpoint) {
  if (token_ == 0) return;  // holds nothing yet
  asked("writing the checkpoint", [&] {
    const std::int64_t seenBefore = lastIdSeen_;
    pqxx::work tx{*connection_};
    tx.exec(std::string(postgres::kOwnTransaction) + kCheckpointSettings);
    writeCursor(tx, checkpoint);
    writeParked(tx, schema_, checkpoint.parked);
    tx.commit();
    // Whoever gets a transaction id after ours gets his event ids after what we had seen.
    provenFloor_ = std::max(provenFloor_, seenBefore);
  });
}

void PostgresEventLog::writeCursor(pqxx::transaction_base& tx, const Checkpoint& checkpoint) {
  const auto write = [&](const std::vector<Position>& positions, Hold hold) {
    for (const Position& position : positions) {
      if (!writePosition(tx, schema_, token_, position, hold)) throw LeaseLost();
    }
  };
  const Lanes given = checkpoint.give.lanes();
  const CursorWrites writes =
      checkpoint.cursorMoved ? written_.writesFor(checkpoint.cursor, given) : CursorWrites{};
  const auto server = renewLease(tx, schema_, token_, options_.lease, writes.main);
  if (!server) throw LeaseLost();
  requireSameServer(*server, lastIdSeen_);
  if (writes.join != 0 && !joinLanes(tx, schema_, token_, writes.join)) throw LeaseLost();
  write(writes.apart, Hold::Keep);
  write(checkpoint.give.positions, Hold::Give);
  written_.wrote(writes);
  written_.gave(given);
}

void PostgresEventLog::release() {
  asked("giving the lanes back", [&] {
    pqxx::work tx{*connection_};
    tx.exec(postgres::kOwnTransaction);
    leave(tx, schema_, token_);
    tx.commit();
    token_ = 0;
    written_ = {};
  });
}

void PostgresEventLog::noteInHand(std::optional<std::int64_t> id) {
  asked("noting what is sent", [&] {
    pqxx::work tx{*connection_};
    // Our end, not the server's, is what it is for.
    tx.exec(std::string(postgres::kOwnTransaction) + "; set local synchronous_commit = off");
    writeInHand(tx, schema_, token_, id);
    tx.commit();
  });
}

void PostgresEventLog::acquit(std::int64_t id) {
  asked("noting what was sent", [&] {
    pqxx::work tx{*connection_};
    tx.exec(std::string(postgres::kOwnTransaction) + "; set local synchronous_commit = off");
    writeInHand(tx, schema_, token_, std::nullopt);
    forgetDeaths(tx, schema_, id);
    tx.commit();
  });
}

ParkedSummary PostgresEventLog::parkedSummary(Lanes lanes) {
  ParkedSummary summary;
  asked("reading what is parked", [&] {
    pqxx::work tx{*connection_};
    tx.exec(postgres::kOwnTransaction);
    summary = summarizeParked(tx, schema_, lanes);
    tx.commit();
  });
  return summary;
}

void PostgresEventLog::setIdle(bool idle) {
  asked("telling writers whether to wake us", [&] {
    pqxx::work tx{*connection_};
    tx.exec(postgres::kOwnTransaction);
    outbox::setIdle(tx, schema_, idle);
    tx.commit();
    if (!idle) return;
    pqxx::work later{*connection_};  // see raise_idle_flag
    later.exec("select pg_current_xact_id()");
    later.commit();
  });
}

}  // namespace pillion::outbox
