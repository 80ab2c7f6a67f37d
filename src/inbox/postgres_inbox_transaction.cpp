#include "inbox/postgres_inbox_transaction.hpp"

#include <pillion/error.hpp>
#include <utility>

#include "base/cause.hpp"
#include "event/event_check.hpp"
#include "event/event_id.hpp"
#include "inbox/inbox_dead_table.hpp"
#include "inbox/inbox_parked_table.hpp"
#include "postgres/connection.hpp"
#include "postgres/statement.hpp"

namespace pillion::inbox {
namespace {

/// No child that holds ids younger than this can have been emptied.
constexpr std::chrono::hours kSurelyRemembered{18};
/// What is published by the handler follows from this event. A peer may have sent what no event of
/// ours may carry.
base::Cause causeOf(const Event& event) {
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

std::optional<Claimed> claimOrGiveUp(pqxx::transaction_base& tx, const std::string& consumer,
                                     std::span<const amqp::Identity* const> events,
                                     InboxTransaction::Wait patience) {
  try {
    return claimIds(tx, consumer, events, patience);
  } catch (const pqxx::sql_error& error) {
    if (error.sqlstate() == "55P03") return std::nullopt;
    throw;
  }
}

/// It is no failure of the handler that the server shuts down or has run out of something.
void requireServer(const pqxx::sql_error& error) {
  const std::string& state = error.sqlstate();
  const bool passing =
      state.starts_with("53") || state.starts_with("57P") || state.starts_with("58");
  if (!passing) return;
  if (state == "53100" || state == "58030") {  // disk full, I/O error
    throw ServerAilment("PostgreSQL, in a handler: " + postgres::firstLine(error.what()));
  }
  throw DatabaseError(DatabaseError::Kind::Unavailable,
                      "PostgreSQL, in a handler: " + postgres::firstLine(error.what()));
}

/// The message of a data exception quotes the value, which is the service's own business.
std::string withoutValues(const pqxx::sql_error& error) {
  if (!error.sqlstate().starts_with("22")) return error.what();
  return "SQLSTATE " + error.sqlstate() + ", a value that PostgreSQL does not take";
}

}  // namespace

PostgresInboxTransaction::PostgresInboxTransaction(postgres::OpenSession& session,
                                                   const std::string& schema,
                                                   const std::string& consumer, bool functionsSet,
                                                   WallTime now)
    : session_(session),
      schema_(schema),
      consumer_(consumer),
      functionsSet_(functionsSet),
      now_(now),
      work_(session, guardOf(schema)) {}

std::optional<std::vector<Claim>> PostgresInboxTransaction::claim(
    std::span<const amqp::Identity* const> events, Wait patience) {
  events_ = events.size();
  std::optional<std::vector<Claim>> claims;
  own("recording events in the inbox", [&] {
    const auto claimed = claimOrGiveUp(work_, consumer_, events, patience);
    if (!claimed) return;
    anyParked_ = claimed->anyParked;
    claims.emplace(events.size(), Claim::Duplicate);
    for (std::size_t i = 0; i < events.size(); ++i) {
      if (!claimed->isNew[i]) continue;
      (*claims)[i] = isForgotten(events[i]->id) ? Claim::Forgotten : Claim::New;
    }
  });
  return claims;
}

bool PostgresInboxTransaction::holdBack(const Job& job, const amqp::Identity& identity) {
  if (!anyParked_ || identity.key.empty()) return false;
  bool held = false;
  own("parking an event", [&] { held = insertBehind(work_, schema_, consumer_, job, identity); });
  return held;
}

void PostgresInboxTransaction::leaveToOthers(const Job& job, const amqp::Identity& identity) {
  own("parking an event", [&] { insertUnknown(work_, schema_, consumer_, job, identity); });
  anyParked_ = true;  // for those of its key that come in the same batch
}

void PostgresInboxTransaction::run(const Handler& handler, const Event& event) {
  const base::CauseScope scope(causeOf(event));
  try {
    Transaction& transaction = handlersTransaction();
    session_.takeSeen();  // that was us
    handler(event, transaction);
  } catch (...) {
    blame();
  }
  leaveHandler();
}

void PostgresInboxTransaction::park(const Job& job, const amqp::Identity& identity,
                                    const Failure& failure, Wait wait) {
  own("parking an event",
      [&] { insertFailed(work_, schema_, consumer_, job, identity, failure, wait); });
}

void PostgresInboxTransaction::forget(const amqp::Identity& identity) {
  own("forgetting an event",
      [&] { forgetId(work_, schema_, consumer_, identity.id, identity.source); });
}

void PostgresInboxTransaction::deadLetter(const Job& job, const Failure& failure, int attempts) {
  own("writing a dead letter",
      [&] { insertDead(work_, schema_, consumer_, job, failure, attempts); });
}

bool PostgresInboxTransaction::lock(const ParkedEvent& event) {
  bool locked = false;
  own("locking a parked event", [&] { locked = lockTaken(work_, schema_, event); });
  return locked;
}

std::vector<ParkedEvent> PostgresInboxTransaction::lockBehind(const ParkedEvent& event, int most) {
  std::vector<ParkedEvent> events;
  own("locking parked events",
      [&] { events = inbox::lockBehind(work_, schema_, consumer_, event, most); });
  events_ = events.size() + 1;
  return events;
}

void PostgresInboxTransaction::unpark(const ParkedEvent& event,
                                      std::span<const ParkedEvent> behind) {
  endHandlers();
  own("removing a parked event", [&] {
    work_.exec(kFreshSettings);
    removeParked(work_, schema_, consumer_, event, behind);
  });
}

void PostgresInboxTransaction::giveUp(const ParkedEvent& event, const Failure& failure,
                                      int attempts) {
  own("giving a parked event up", [&] { giveUpParked(work_, schema_, event, failure, attempts); });
}

void PostgresInboxTransaction::failAgain(const ParkedEvent& event, const Failure& failure,
                                         Wait wait) {
  own("noting a failed attempt", [&] { noteFailure(work_, schema_, event, failure, wait); });
}

void PostgresInboxTransaction::commit() {
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

/// One savepoint for the handlers of a batch, since each costs round trips. A handler that commits
/// has done with it, and the next gets another. One that is alone needs none at the server.
Transaction& PostgresInboxTransaction::handlersTransaction() {
  if (!savepoint_ || savepoint_->committed()) {
    savepoint_.emplace(work_, "pillion_handlers", events_ > 1);
  }
  return *savepoint_;
}

/// A handler has come back. Whether it may have left anything behind besides rows is known without
/// asking: its commands tell, unless there are functions that set something.
void PostgresInboxTransaction::leaveHandler() {
  const postgres::CommandsSeen seen = session_.takeSeen();
  requireConnection();
  if (savepoint_->aborted() || session_.failed()) {
    throw HandlerFailed({"the handler aborted its transaction, or hid an SQL error", ""});
  }
  if (!session_.inTransaction() || (seen.rollbacks > 0 && seen.savepoints == 0)) {
    throw HandlerFailed({"the handler ended its transaction, or undid what others did in it", ""});
  }
  if (events_ <= 1) return;  // it is alone
  if (seen.constraints) {
    throw HandlerFailed({"SET CONSTRAINTS holds for all of a transaction", ""});
  }
  if (seen.rowsOnly && !functionsSet_) return;
  try {
    refresh();
  } catch (...) {
    blame();
  }
}

/// The next handler begins with the session as it was, and with a savepoint of its own.
void PostgresInboxTransaction::refresh() {
  const std::string savepoint = savepoint_->quotedName();
  if (!savepoint_->committed()) savepoint_->commit();
  savepoint_.reset();
  freshenSession(work_, savepoint);
}

/// No handler comes after this. Were it not this very transaction, or had a statement in it failed,
/// the guard could not be closed.
void PostgresInboxTransaction::endHandlers() {
  if (!std::exchange(guarded_, false)) return;
  try {
    if (savepoint_ && !savepoint_->committed()) savepoint_->commit();
    savepoint_.reset();
    endGuard(work_);
  } catch (const pqxx::invalid_cursor_name&) {
    throw HandlerFailed({"the handler ended its transaction, or closed cursors of others", ""});
  } catch (...) {
    blame();
  }
}

/// For statements of our own. A deadlock passes. What PostgreSQL refuses may be one event's doing,
/// so it must not stop the others.
template <typename Work>
void PostgresInboxTransaction::own(const char* doing, Work work) const {
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
void PostgresInboxTransaction::blame() const {
  requireConnection();
  try {
    throw;
  } catch (const RejectEvent& rejected) {
    throw HandlerFailed({rejected.what(), "rejected"});
  } catch (const HandlerFailed&) {
    throw;
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

/// An exception may only be the echo of a lost connection, which is no failure of the handler.
void PostgresInboxTransaction::requireConnection() const {
  if (session_.isOpen()) return;
  throw DatabaseError(DatabaseError::Kind::Unavailable, "PostgreSQL is away");
}

/// Consumers of one schema share the ring, and one with a shorter window may have emptied the child
/// of this id a moment ago. Asked after the insert, which such a one had to wait for.
bool PostgresInboxTransaction::isForgotten(const std::string& eventId) {
  const auto made = timeOfEventId(eventId);
  if (!made || *made > now_ - kSurelyRemembered) return false;
  if (!horizon_) horizon_ = lockHorizon(work_, schema_);
  return *made < *horizon_;
}

}  // namespace pillion::inbox
