#pragma once

#include <cstddef>
#include <map>
#include <pillion/consumer.hpp>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.hpp"
#include "inbox/delivery_queue.hpp"
#include "inbox/handler_table.hpp"
#include "inbox/handler_watch.hpp"
#include "inbox/inbox.hpp"

namespace pillion::inbox {

/// How a delivery ended. Each of them is acked, after what is in the second column.
///
/// | outcome      | what is safe before the ack     | because                             |
/// |--------------|---------------------------------|-------------------------------------|
/// | Applied      | effects and id, in one commit   | the handler returned                |
/// | Duplicate    | nothing new                     | the id was there already            |
/// | Ignored      | nothing                         | no handler for the type, by policy  |
/// | Left         | event and id in the database    | no handler for the type: to others  |
/// | Parked       | event and id in the database    | its handler failed                  |
/// | Held         | event and id in the database    | an earlier one of its key is parked |
/// | Discarded    | nothing                         | outside the window, by policy       |
/// | DeadLettered | a dead letter in the database   | no event, outside the window, or    |
/// |              |                                 | its handler rejected it             |
enum class Outcome { Applied, Duplicate, Ignored, Left, Parked, Held, Discarded, DeadLettered };

/// A batch ended at one of its deliveries; nothing of it was committed. Alone, that delivery is to
/// be parked or, when it is no event at all or is never to be tried again, dead-lettered.
class BatchStopped : public std::runtime_error {
 public:
  BatchStopped(std::size_t index, Failure failure, bool isEvent)
      : std::runtime_error(errorLine(failure.error)),
        index_(index),
        failure_(std::move(failure)),
        isEvent_(isEvent) {
    failure_.error = what();
  }
  [[nodiscard]] std::size_t index() const { return index_; }
  [[nodiscard]] const Failure& failure() const { return failure_; }
  /// False: no event, or one whose id says nothing any more. It has never been claimed.
  [[nodiscard]] bool isEvent() const { return isEvent_; }

 private:
  std::size_t index_;
  Failure failure_;
  bool isEvent_;
};

/// The first handlers of a batch took long, and its locks would be held for too long. Nothing was
/// committed; so many at a time would do.
class BatchTooSlow : public std::runtime_error {
 public:
  explicit BatchTooSlow(std::size_t fitting)
      : std::runtime_error("a batch took too long"), fitting_(fitting) {}
  [[nodiscard]] std::size_t fitting() const { return fitting_; }

 private:
  std::size_t fitting_;
};

/// Some events of a batch are to be parked, and handlers are to run for others. Nothing was
/// committed: those are to be parked first, by themselves. Else whoever removes the event in front
/// of them would wait for these handlers.
class BatchHolds : public std::runtime_error {
 public:
  explicit BatchHolds(std::vector<std::size_t> indices)
      : std::runtime_error("events of a batch are to be parked"), indices_(std::move(indices)) {}
  /// In their order.
  [[nodiscard]] const std::vector<std::size_t>& indices() const { return indices_; }

 private:
  std::vector<std::size_t> indices_;
};

/// PostgreSQL went away, or was out of something, while this handler ran. That may be the handler's
/// own doing: a session can end by a limit of its role, or by a query that kills its process.
class LostInHandler : public DatabaseError {
 public:
  LostInHandler(std::size_t index, const DatabaseError& error)
      : DatabaseError(error), index_(index) {}
  [[nodiscard]] std::size_t index() const { return index_; }

 private:
  std::size_t index_;
};

/// Counts how often that was the same event, whatever came in between. A connection was opened each
/// time: so it is the event's failure after a few times, and no outage.
class LossesInARow {
 public:
  /// True when it is that event's failure now.
  bool lost(const std::string& eventId) {
    if (times_.size() >= kMostEvents) times_.clear();
    int& times = times_[eventId];
    if (++times < kMost) return false;
    times_.erase(eventId);
    return true;
  }
  static Failure failureOf(const Error& error) {
    return {"its handler has lost the database " + std::to_string(kMost) +
                " times in a row: " + error.what(),
            ""};
  }

 private:
  static constexpr int kMost = 3;
  static constexpr std::size_t kMostEvents = 1'000;
  std::map<std::string, int> times_;
};

/// What a delivery is handled with.
/// For other transactions that have recorded an id of a batch: as long as a batch may take.
inline constexpr std::chrono::milliseconds kClaimPatience{1'000};
/// Of a worker that was kept waiting so long not long ago: as long as many keys can be tried one
/// after the other without anybody noticing.
inline constexpr std::chrono::milliseconds kShortPatience{10};

struct Handling {
  const HandlerTable& handlers;
  Inbox& inbox;
  DeliveryQueue& queue;
  HandlerWatch& watch;
  ParkedPolicy parked = ParkedPolicy::Hold;
  OutsideWindowPolicy outsideWindow = OutsideWindowPolicy::DeadLetter;
  UnhandledPolicy unhandled = UnhandledPolicy::DeadLetter;
  const base::Clock& clock = base::systemClock();
  std::chrono::milliseconds patience = kClaimPatience;
};

/// How many of the first of these may share a transaction. A handler without one of its own may
/// wait, over a connection of its own, for a row that a neighbour has locked, and that neighbour
/// for its return: so it shares with its like alone.
std::size_t alike(std::span<const Job> jobs, const HandlerTable& handlers);

/// One attempt at some deliveries, in one transaction: admit, claim, handle, commit, ack. Returns
/// an outcome for each.
///
/// Throws BatchStopped, BatchHolds, BatchTooSlow and ClaimBlocked, and DatabaseError when the
/// database is away; LostInHandler when it was while a handler ran. Nothing was acked then, and
/// nothing was committed unless the error is in doubt; the same deliveries are to be tried again,
/// and the inbox decides.
std::vector<Outcome> attemptBatch(std::span<const Job> jobs, const Handling& with);

/// Parks one event whose handler failed, together with its id, and acks it. Duplicate when another
/// instance has taken it meanwhile.
Outcome parkFailed(const Job& job, const Failure& failure, std::chrono::milliseconds wait,
                   const Handling& with);

/// Writes one that is never to be tried again where it goes to the dead-letter queue from, for the
/// verdict of the failure, and acks it. `attempts` is 0 for what is no event, or none any more.
/// Duplicate when another instance has taken the event meanwhile.
Outcome deadLetter(const Job& job, const Failure& failure, int attempts, const Handling& with);

/// Decodes and runs the handler; BatchStopped (with index 0) or HandlerFailed. For parked events,
/// too.
void handleEvent(InboxTransaction& transaction, const Handler& handler, const Job& job,
                 HandlerWatch& watch);

/// Nothing between first and most that grows without end: `first * factor^(attempts - 1)`, at most
/// `most`, shortened by up to `jitter` of it; `random` is from 0 to 1.
std::chrono::milliseconds retryWait(const RetryPolicy& policy, int attempts, double random);

}  // namespace pillion::inbox
