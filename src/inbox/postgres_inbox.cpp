#include "inbox/postgres_inbox.hpp"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <pillion/error.hpp>
#include <pillion/log.hpp>
#include <utility>

#include "base/cause.hpp"
#include "event/event_check.hpp"
#include "event/event_id.hpp"
#include "inbox/inbox_parked_table.hpp"
#include "migrate/schema_check.hpp"
#include "postgres/kept_savepoint.hpp"
#include "postgres/statement.hpp"

namespace pillion::inbox {
namespace {

/// Instances and producers do not agree on the time to the second.
constexpr std::chrono::hours kClockSlack{1};
/// No child that holds ids younger than this can have been emptied.
constexpr std::chrono::hours kSurelyRemembered{18};
/// A parked event of a type that an instance does not know: when another one may look, and when
/// there is surely none.
constexpr std::chrono::seconds kUnknownAgain{2};
constexpr std::chrono::hours kUnknownMost{1};
/// Ids made further ahead than this could be in a child that is about to be emptied.
constexpr std::chrono::hours kMostAhead{24};
/// No consumer remembers for longer (consumer.hpp).
constexpr std::chrono::hours kLongestWindow{20 * 24};

Claimed claimOrGiveUp(pqxx::transaction_base& tx, const std::string& consumer,
                      std::span<const amqp::Identity* const> events) {
  try {
    return claimIds(tx, consumer, events);
  } catch (const pqxx::sql_error& error) {
    if (error.sqlstate() == "55P03") throw ClaimBlocked();
    throw;
  }
}

class PostgresInboxTransaction : public InboxTransaction {
 public:
  PostgresInboxTransaction(pqxx::connection& connection, const std::string& schema,
                           const std::string& consumer, WallTime now)
      : connection_(connection),
        schema_(schema),
        consumer_(consumer),
        now_(now),
        work_(connection) {}

  std::vector<Claim> claim(std::span<const amqp::Identity* const> events) override {
    std::vector<Claim> claims(events.size(), Claim::Duplicate);
    own("recording events in the inbox", [&] {
      const Claimed claimed = claimOrGiveUp(work_, consumer_, events);
      id_ = claimed.transaction;
      anyParked_ = claimed.anyParked;
      for (std::size_t i = 0; i < events.size(); ++i) {
        if (!claimed.isNew[i]) continue;
        claims[i] = isForgotten(events[i]->id) ? Claim::Forgotten : Claim::New;
      }
    });
    return claims;
  }

  bool holdBack(const Job& job, const amqp::Identity& identity) override {
    if (!anyParked_ || identity.key.empty()) return false;
    bool held = false;
    own("parking an event", [&] { held = insertBehind(work_, schema_, consumer_, job, identity); });
    return held;
  }

  void run(const Handler& handler, const Event& event) override {
    const base::CauseScope scope(causeOf(event));
    try {
      handler(event, handlersTransaction());
    } catch (...) {
      blame();
    }
    if (savepoint_->aborted()) {
      requireConnection();
      throw HandlerFailed({"the handler aborted its transaction, or hid an SQL error", ""});
    }
  }

  void park(const Job& job, const amqp::Identity& identity, const Failure& failure,
            Wait wait) override {
    own("parking an event",
        [&] { insertFailed(work_, schema_, consumer_, job, identity, failure, wait); });
  }

  bool lock(const ParkedEvent& event) override {
    own("locking a parked event", [&] { id_ = lockTaken(work_, schema_, event); });
    return !id_.empty();
  }

  void unpark(const ParkedEvent& event, bool forget) override {
    endHandlers();
    own("removing a parked event", [&] {
      removeParked(work_, schema_, consumer_, event);
      if (!forget) return;
      forgetId(work_, schema_, consumer_, event.identity.id, event.identity.source);
    });
  }

  void failAgain(const ParkedEvent& event, const Failure& failure, Wait wait) override {
    own("noting a failed attempt", [&] { noteFailure(work_, schema_, event, failure, wait); });
  }

  void commit() override {
    endHandlers();
    try {
      work_.commit();
    } catch (const pqxx::in_doubt_error&) {
      throw DatabaseError(DatabaseError::Kind::InDoubt, "PostgreSQL left a COMMIT unanswered");
    } catch (const pqxx::broken_connection& error) {
      throw DatabaseError(DatabaseError::Kind::Unavailable,
                          "PostgreSQL, committing: " + postgres::firstLine(error.what()));
    } catch (...) {  // a deferred constraint, say
      blame();
    }
  }

 private:
  /// One savepoint for all handlers of a batch, since each costs round trips. A handler that
  /// commits has done with it, and the next gets another.
  Transaction& handlersTransaction() {
    if (!savepoint_ || savepoint_->committed()) savepoint_.emplace(work_, "pillion_handlers");
    return *savepoint_;
  }

  /// No handler comes after this. PostgreSQL answers the COMMIT of a transaction that has failed
  /// with a ROLLBACK and no error, and a handler can hide an SQL error from libpqxx, or end the
  /// transaction by a text. So ask: a failed one gives no answer, and another one another.
  void endHandlers() {
    if (!savepoint_) return;
    try {
      savepoint_->commit();
      savepoint_.reset();
      if (currentTransaction(work_) != id_) throw Error("the handler ended its transaction");
    } catch (...) {
      blame();
    }
  }

  /// For statements of our own. A deadlock passes. What PostgreSQL refuses may be one event's
  /// doing, so it must not stop the others.
  template <typename Work>
  void own(const char* doing, Work work) const {
    try {
      postgres::guarded(doing, [&] {
        try {
          work();
        } catch (const pqxx::transaction_rollback& error) {
          throw HandlerFailed({error.what(), "", /*passing=*/true});
        }
      });
    } catch (const DatabaseError& error) {
      if (error.retryable()) throw;
      throw HandlerFailed({error.what(), ""});
    }
  }

  /// Called where an exception is caught: it is the handlers' failure, unless the server is away.
  [[noreturn]] void blame() const {
    requireConnection();
    try {
      throw;
    } catch (const RejectEvent& rejected) {
      throw HandlerFailed({rejected.what(), "rejected"});
    } catch (const pqxx::transaction_rollback& error) {  // no sql_error in libpqxx 6
      throw HandlerFailed({error.what(), "", /*passing=*/true});
    } catch (const pqxx::sql_error& error) {
      requireServer(error);
      throw HandlerFailed({withoutValues(error), ""});
    } catch (const std::exception& error) {
      throw HandlerFailed({error.what(), ""});
    } catch (...) {
      throw HandlerFailed({"an exception that is no std::exception", ""});
    }
  }

  /// What is published by the handler follows from this event. A peer may have sent what no event
  /// of ours may carry.
  static base::Cause causeOf(const Event& event) {
    base::Cause cause;
    cause.eventId = event.id();
    const std::string& correlation = event.correlationId();
    const bool usable = !correlation.empty() && isUtf8Text(correlation) &&
                        correlation.size() <= EventLimits::kShortString;
    cause.correlationId = usable ? std::string_view(correlation) : cause.eventId;
    if (isTraceParent(event.traceparent())) {
      cause.traceparent = event.traceparent();
      if (isTraceState(event.tracestate())) cause.tracestate = event.tracestate();
    }
    return cause;
  }

  /// An exception may only be the echo of a lost connection, which is no failure of the handler.
  void requireConnection() const {
    if (connection_.is_open()) return;
    throw DatabaseError(DatabaseError::Kind::Unavailable, "PostgreSQL is away");
  }

  /// Nor is it a failure of the handler that the server shuts down or has run out of something.
  static void requireServer(const pqxx::sql_error& error) {
    const std::string& state = error.sqlstate();
    const bool passing =
        state.starts_with("53") || state.starts_with("57P") || state.starts_with("58");
    if (!passing) return;
    throw DatabaseError(DatabaseError::Kind::Unavailable,
                        "PostgreSQL, in a handler: " + postgres::firstLine(error.what()));
  }

  /// The message of a data exception quotes the value, which is the service's own business.
  static std::string withoutValues(const pqxx::sql_error& error) {
    if (!error.sqlstate().starts_with("22")) return error.what();
    return "SQLSTATE " + error.sqlstate() + ", a value that PostgreSQL does not take";
  }

  /// Consumers of one schema share the ring, and one with a shorter window may have emptied the
  /// child of this id a moment ago. Asked after the insert, which such a one had to wait for.
  bool isForgotten(const std::string& eventId) {
    const auto made = timeOfEventId(eventId);
    if (!made || *made > now_ - kSurelyRemembered) return false;
    if (!horizon_) horizon_ = lockHorizon(work_, schema_);
    return *made < *horizon_;
  }

  pqxx::connection& connection_;
  const std::string& schema_;
  const std::string& consumer_;
  WallTime now_;
  bool anyParked_ = true;
  std::string id_;  // the server's, of this transaction
  std::optional<WallTime> horizon_;
  pqxx::work work_;
  std::optional<postgres::KeptSavepoint> savepoint_;  // ends before work_
};

}  // namespace

PostgresInbox::PostgresInbox(const DatabaseOptions& options, std::string consumer,
                             std::chrono::hours window, const base::Clock& clock)
    : schema_(postgres::schemaOf(options)),
      consumer_(std::move(consumer)),
      window_(window),
      clock_(clock),
      connection_(postgres::connect(options, "consumer " + consumer_)) {
  postgres::guarded("opening the inbox", [&] {
    pqxx::nontransaction tx{*connection_};
    // Whatever the role's default is. With a snapshot for the whole transaction, a parked event
    // that comes while the one in front is tried would be seen by neither side.
    tx.exec("set session characteristics as transaction isolation level read committed");
    migrate::requireCurrentSchema(tx, schema_);
    requireParkedSequence(tx, schema_);
    horizon_ = readHorizon(tx, schema_);
    prepareClaim(*connection_, schema_);
  });
}

bool PostgresInbox::remembers(const std::string& eventId) const {
  const auto made = timeOfEventId(eventId);
  if (!made) return true;  // other versions are forgotten by the time they were applied
  const auto now = clock_.wall();
  return *made >= std::max(horizon_, now - window_) && *made <= now + kMostAhead;
}

std::unique_ptr<InboxTransaction> PostgresInbox::begin() {
  std::unique_ptr<InboxTransaction> transaction;
  postgres::guarded("beginning a transaction", [&] {
    transaction =
        std::make_unique<PostgresInboxTransaction>(*connection_, schema_, consumer_, clock_.wall());
  });
  return transaction;
}

/// In a transaction of its own, of the inbox's.
template <typename Work>
void PostgresInbox::own(const char* doing, Work work) {
  postgres::guarded(doing, [&] {
    pqxx::work tx{*connection_};
    tx.exec(postgres::kOwnTransaction);
    work(tx);
    tx.commit();
  });
}

bool PostgresInbox::forgetOld() {
  const auto now = clock_.wall();
  const auto before = now - window_ - kClockSlack;
  bool more = false;
  postgres::guarded("forgetting old events", [&] {
    for (const OldChild& old : childrenBefore(before, now)) truncate(old);
  });
  own("forgetting old events", [&](auto& tx) {
    more = deleteOther(tx, schema_, consumer_, before, now - kLongestWindow - kClockSlack);
    horizon_ = readHorizon(tx, schema_);
  });
  return more;
}

std::optional<ParkedEvent> PostgresInbox::takeDue() {
  std::optional<ParkedEvent> event;
  own("looking for parked events",
      [&](auto& tx) { event = inbox::takeDue(tx, schema_, consumer_, Leases{}); });
  return event;
}

void PostgresInbox::giveBack(const ParkedEvent& event) {
  own("giving a parked event back", [&](auto& tx) { returnTaken(tx, schema_, event); });
}

bool PostgresInbox::leaveToOthers(const ParkedEvent& event, const Failure& failure) {
  bool givenUp = false;
  own("leaving a parked event to others", [&](auto& tx) {
    givenUp = inbox::leaveToOthers(tx, schema_, event, failure, kUnknownAgain, kUnknownMost);
  });
  return givenUp;
}

std::optional<std::chrono::milliseconds> PostgresInbox::nextDueIn() {
  std::optional<std::chrono::milliseconds> next;
  own("looking for parked events",
      [&](auto& tx) { next = inbox::nextDueIn(tx, schema_, consumer_); });
  return next;
}

void PostgresInbox::cancelQuery() noexcept {
  try {
    (*connection_)->cancel_query();
  } catch (const std::exception& error) {
    logger()->warn("a query could not be cancelled: {}", postgres::firstLine(error.what()));
  }
}

void PostgresInbox::truncate(const OldChild& old) {
  try {
    pqxx::work tx{*connection_};
    if (truncateChild(tx, schema_, old)) logger()->info("inbox child {} was emptied", old.child);
    tx.commit();
  } catch (const pqxx::sql_error& error) {
    // In use (55P03), or not ours to truncate: space waits, delivery does not.
    logger()->debug("inbox child {} stays: {}", old.child, error.sqlstate());
  }
}

}  // namespace pillion::inbox
