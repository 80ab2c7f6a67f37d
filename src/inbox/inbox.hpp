#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <pillion/error.hpp>
#include <pillion/event.hpp>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "amqp/message.hpp"
#include "inbox/delivery_queue.hpp"
#include "inbox/error_line.hpp"
#include "inbox/handler_table.hpp"

namespace pillion::inbox {

/// Why an event was not applied.
struct Failure {
  std::string error;     // at most a line, without row values or payload
  std::string verdict;   // not empty: never to be tried again; the reason in the dead letter
  bool passing = false;  // a deadlock, a serialization failure: try again at once
};

/// The handler did not get through, or PostgreSQL refuses what is to be recorded of its event. The
/// transaction is of no more use.
class HandlerFailed : public Error {
 public:
  explicit HandlerFailed(Failure failure)
      : Error(errorLine(failure.error)), failure_(std::move(failure)) {
    failure_.error = what();
  }
  [[nodiscard]] const Failure& failure() const { return failure_; }

 private:
  Failure failure_;
};

/// The server has no room left, or cannot read its disk: whatever event meets it.
class ServerAilment : public DatabaseError {
 public:
  explicit ServerAilment(const std::string& message) : DatabaseError(Kind::Unavailable, message) {}
};

/// What the inbox says of an id that was recorded, or was to be.
enum class Claim {
  New,
  Duplicate,  ///< the consumer has taken it already
  Forgotten,  ///< it is so old that it may have been applied and forgotten since
};

/// An event in the service's database that is waiting for its next attempt.
struct ParkedEvent {
  std::int64_t seq = 0;
  amqp::Identity identity;
  Job job;            // its delivery, as it was
  int attempts = 0;   // begun, the present one included
  int along = 0;      // so many behind it may be tried with it
  std::string error;  // of the last attempt
};

/// One transaction. Without `commit` it is rolled back when it ends.
class InboxTransaction {
 public:
  using Wait = std::chrono::milliseconds;

  virtual ~InboxTransaction() = default;

  // Each of these throws HandlerFailed, too: for a deadlock, say, or for what PostgreSQL refuses.

  /// Records the ids; one answer for each. Waits for others that are recording the same ones, but
  /// no longer than `patience`: then nothing, and the transaction is of no more use. To be
  /// committed only when none is Forgotten.
  virtual std::optional<std::vector<Claim>> claim(std::span<const amqp::Identity* const> events,
                                                  Wait patience) = 0;
  /// Parks the event if an earlier one of its key is parked; returns whether it did. Before any
  /// handler has run: one may leave the transaction in a state in which nothing can be recorded.
  virtual bool holdBack(const Job& job, const amqp::Identity& identity) = 0;
  /// Parks an event for whose type there is no handler here: see Inbox::leaveToOthers.
  virtual void leaveToOthers(const Job& job, const amqp::Identity& identity) = 0;
  virtual void run(const Handler& handler, const Event& event) = 0;
  /// Parks the event after its first failed attempt.
  virtual void park(const Job& job, const amqp::Identity& identity, const Failure& failure,
                    Wait wait) = 0;
  /// As if it had never been taken.
  virtual void forget(const amqp::Identity& identity) = 0;
  /// Sends a message to the dead-letter queue when this commits, for the verdict of the failure.
  virtual void deadLetter(const Job& job, const Failure& failure, int attempts) = 0;

  // On a parked event.

  /// False when somebody else has it, or has dealt with it.
  virtual bool lock(const ParkedEvent& event) = 0;
  /// So many behind it, to be tried with it, in their order.
  virtual std::vector<ParkedEvent> lockBehind(const ParkedEvent& event, int most) = 0;
  /// It is done with, and so are those behind it; the next of its key is due.
  virtual void unpark(const ParkedEvent& event, std::span<const ParkedEvent> behind) = 0;
  /// The same, and it goes to the dead-letter queue after so many attempts, as if it had never been
  /// taken.
  virtual void giveUp(const ParkedEvent& event, const Failure& failure, int attempts) = 0;
  virtual void failAgain(const ParkedEvent& event, const Failure& failure, Wait wait) = 0;

  /// Throws HandlerFailed when a handler has left the transaction in a state that cannot be
  /// committed, or has ended it; or DatabaseError, and when that is in doubt, ask the inbox again
  /// with a new transaction.
  virtual void commit() = 0;
};

/// The consumer's whole view of the database: narrow, so that a simulator can stand in for it. One
/// thread. Calls throw DatabaseError when the database is away; the inbox is then useless and a new
/// one is opened.
class Inbox {
 public:
  virtual ~Inbox() = default;
  /// Can it still be known whether this id was applied?
  [[nodiscard]] virtual bool remembers(const std::string& eventId) const = 0;
  virtual std::unique_ptr<InboxTransaction> begin() = 0;
  /// Forgets some of what has left the dedupe window; returns whether there may be more.
  virtual bool forgetOld() = 0;

  /// A parked event that is due, its attempt counted already: one that ends the process is found
  /// out by its count. An attempt at several that does counts for none of them, and the next is at
  /// the first alone. Those of types that were `left` here before are taken a while later, so that
  /// others come first. Nothing when none is due.
  virtual std::optional<ParkedEvent> takeDue(const std::vector<std::string>& left) = 0;
  /// One that was taken and not worked on, for no fault of its own: due at once, its attempt not
  /// counted.
  virtual void giveBack(const ParkedEvent& event) = 0;
  /// One whose type this instance has no handler for: owed an attempt by an instance that has.
  /// False, and nothing has changed: there has been none for long, so it is to be given up.
  virtual bool leaveToOthers(const ParkedEvent& event) = 0;
  /// How long until the next is due, when there is one.
  virtual std::optional<std::chrono::milliseconds> nextDueIn() = 0;
};

}  // namespace pillion::inbox
