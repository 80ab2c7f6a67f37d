#include "outbox/caretaker.hpp"

#include <algorithm>
#include <pillion/error.hpp>
#include <utility>

#include "base/failpoint.hpp"
#include "base/log_line.hpp"
#include "outbox/lane_table.hpp"
#include "outbox/outbox_table.hpp"
#include "outbox/scheduled_table.hpp"

namespace pillion::outbox {
namespace {

/// Somebody may schedule an event that is due sooner than those there are.
constexpr std::chrono::milliseconds kAskForDue{250};
/// After a failure: what it waited for may be held for long.
constexpr std::chrono::seconds kMoveAgain{1};
constexpr std::chrono::seconds kReclaimEvery{60};
/// A part of the ring is some megabytes even when it is empty of news, so not for every minute.
constexpr std::chrono::hours kLeastRotation{1};

/// For one transaction, since a pooler in transaction mode keeps no session.
constexpr const char* kReadLimits =
    "set local statement_timeout = '20s'; set local lock_timeout = '5s'; set local row_security ="
    " off";
constexpr const char* kMoveLimits =
    "set transaction isolation level read committed; set local statement_timeout = '20s';"
    " set local lock_timeout = '250ms'; set local synchronous_commit = local";

base::Clock::Boot now() {
  return base::systemClock().boot();
}

}  // namespace

Caretaker::Caretaker(CaretakerOptions options)
    : options_(std::move(options)),
      schema_(postgres::schemaOf(options_.database)),
      database_(options_.who + " beside its turns", options_.reconnectFirst,
                options_.reconnectMost),
      movingOutage_(options_.who + " with the events that are due"),
      thread_([this](const std::stop_token& stop) { work(stop); }) {}

Caretaker::~Caretaker() = default;

void Caretaker::answerFrom(std::string server) {
  const base::MutexLock lock(mutex_);
  server_ = std::move(server);
  question_.reset();
  answer_.reset();
  ++asked_;
}

void Caretaker::ask(ParkedQuestion question) {
  const base::MutexLock lock(mutex_);
  question_ = std::move(question);
  answer_.reset();
  ++asked_;
  changed_.notify_one();
}

std::optional<ParkedAnswer> Caretaker::answer() {
  const base::MutexLock lock(mutex_);
  return std::exchange(answer_, std::nullopt);
}

void Caretaker::work(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    try {
      if (!connection_) {
        connection_ = postgres::connect(options_.database, "relay caretaker",
                                        {stop, postgres::kNothingToFinish});
      }
      workOnce();
      database_.works();
      rest(stop, std::min(nextMove_, nextReclaim_));
    } catch (const Error& error) {
      database_.failed(error);
      connection_.reset();
      rest(stop, now() + database_.pause());
    } catch (const std::exception& error) {
      base::log.error("{} begins again beside its turns after: {}", options_.who, error.what());
      connection_.reset();
      rest(stop, now() + database_.pause());
    }
  }
}

void Caretaker::workOnce() {
  answerQuestion();
  if (now() >= nextMove_) moveDue();
  if (now() >= nextReclaim_) reclaimSpace();
}

/// A question ends the rest, unless the database is away.
void Caretaker::rest(const std::stop_token& stop, Boot until) {
  base::MutexLock lock(mutex_);
  const auto left = std::max(until - now(), Boot{0});
  changed_.wait_for(lock, stop, left, [this]() PILLION_REQUIRES(mutex_) {
    return connection_ != nullptr && question_;
  });
}

void Caretaker::answerQuestion() {
  std::optional<ParkedQuestion> question;
  std::string server;
  std::uint64_t asked = 0;
  {
    const base::MutexLock lock(mutex_);
    question = question_;
    server = server_;
    asked = asked_;
  }
  if (!question) return;
  ParkedAnswer answer;
  postgres::guarded(*connection_, "reading the parked events", [&] {
    pqxx::work tx{*connection_};
    tx.exec(kReadLimits);
    answer = answerParked(tx, schema_, *question, {options_.pageEvents, options_.pageBytes});
    if (serverState(tx, schema_) != server) {
      throw DatabaseError(DatabaseError::Kind::Unavailable,
                          "another PostgreSQL answers than the one whose events are published");
    }
    tx.commit();
  });
  const base::MutexLock lock(mutex_);
  if (asked != asked_) return;
  question_.reset();
  answer_ = std::move(answer);
}

void Caretaker::moveDue() {
  MovedDue moved;
  nextMove_ = now() + kMoveAgain;
  try {
    postgres::guarded(*connection_, "moving events that are due", [&] {
      pqxx::work tx{*connection_};
      tx.exec(kMoveLimits);
      moved = outbox::moveDue(tx, schema_, options_.pageEvents, options_.pageBytes);
      tx.commit();
    });
  } catch (const Error& error) {
    // A lock or a right: what is parked and the ring do not need it.
    movingOutage_.began(error);
    if (!(*connection_)->is_open()) throw;
    return;
  }
  movingOutage_.ended();
  PILLION_FAILPOINT("relay.moved");  // crash: what was due is in the log, and goes on from there
  nextMove_ = now() + std::min(moved.nextIn.value_or(kAskForDue), kAskForDue);
}

void Caretaker::rotate() {
  try {
    pqxx::work tx{*connection_};
    tx.exec(kMoveLimits);
    rotateRing(tx, schema_, std::max<std::chrono::seconds>(options_.retention, kLeastRotation));
    tx.commit();
  } catch (const pqxx::sql_error& error) {
    // Space, not delivery.
    if (said_.insert("rotate").second) {
      base::log.warn("the ring of the outbox cannot go on to its next part: {}",
                     postgres::firstLine(error.what()));
    }
  }
}

void Caretaker::reclaimSpace() {
  nextReclaim_ = now() + kReclaimEvery;
  postgres::guarded(*connection_, "emptying the ring", [&] {
    rotate();
    for (const auto& [outcome, parts] :
         truncatePublished(*connection_, schema_, options_.retention)) {
      if (!outcome.starts_with("sqlstate") || !said_.insert(outcome).second) continue;
      base::log.warn(
          "{} of {} parts of the outbox could not be emptied ({}); space waits, "
          "delivery does not",
          parts, kRingChildren, outcome);
    }
  });
}

}  // namespace pillion::outbox
