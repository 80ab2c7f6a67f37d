#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <pillion/consumer.hpp>
#include <span>
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

/// How an attempt at some deliveries ended. But for Done, nothing was committed and nothing acked:
/// the same deliveries are to be tried again, in the way that is said here, and the inbox decides.
struct Attempt {
  enum class End {
    Done,     ///< committed and acked; each has an outcome
    Stopped,  ///< at one of them, by its failure. Alone, that one is to be parked, or dead-lettered
    Holds,    ///< some are to be parked, and handlers are to run for others: those first, by
            ///< themselves, else whoever removes what is in front of them waits for these handlers
    TooSlow,  ///< the first handlers took long, and its locks would be held for too long
    Blocked,  ///< another transaction has recorded one of the ids and does not end
    Lost,  ///< PostgreSQL went away, or was out of something, while a handler ran. That may be its
           ///< own doing: a session can end by a limit of its role, or a query kills its process
  };

  End end = End::Done;
  std::vector<Outcome> outcomes = {};      // Done: of each
  std::size_t index = 0;                   // Stopped, Lost: where
  Failure failure = {};                    // Stopped
  bool isEvent = true;                     // Stopped; no: none, or its id says nothing any more
  std::vector<std::size_t> first = {};     // Holds: those, in their order
  std::size_t fitting = 0;                 // TooSlow: so many at a time would do
  std::optional<DatabaseError> lost = {};  // Lost

  static Attempt stopped(std::size_t index, Failure failure, bool isEvent = true) {
    failure.error = errorLine(failure.error);
    return {.end = End::Stopped, .index = index, .failure = std::move(failure), .isEvent = isEvent};
  }
  static Attempt lostAt(std::size_t index, const DatabaseError& error) {
    return {.end = End::Lost, .index = index, .lost = error};
  }
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

/// For other transactions that have recorded an id of a batch: as long as a batch may take.
inline constexpr std::chrono::milliseconds kClaimPatience{1'000};
/// Of a worker that was kept waiting so long not long ago: as long as many keys can be tried one
/// after the other without anybody noticing.
inline constexpr std::chrono::milliseconds kShortPatience{10};

/// What a delivery is handled with.
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

/// One attempt at some deliveries, in one transaction: admit, claim, handle, commit, ack. Throws
/// DatabaseError when the database is away while no handler ran; then nothing was acked, and
/// nothing committed unless that is in doubt.
Attempt attemptBatch(std::span<const Job> jobs, const Handling& with);

/// The end of what `handle` does while handlers run; Lost when PostgreSQL goes away in it. That it
/// has no room left, or cannot read its disk, is no handler's doing.
template <typename Handle>
std::optional<Attempt> lostOr(std::size_t index, Handle handle) {
  try {
    return handle();
  } catch (const ServerAilment&) {
    throw;
  } catch (const DatabaseError& error) {
    return Attempt::lostAt(index, error);
  }
}

/// For whoever can do nothing about a Blocked one but to try again.
DatabaseError blockedClaim();

/// Parks one event whose handler failed, together with its id, and acks it. Duplicate when another
/// instance has taken it meanwhile.
Outcome parkFailed(const Job& job, const Failure& failure, std::chrono::milliseconds wait,
                   const Handling& with);

/// Writes one that is never to be tried again where it goes to the dead-letter queue from, for the
/// verdict of the failure, and acks it. `attempts` is 0 for what is no event, or none any more.
/// Duplicate when another instance has taken the event meanwhile.
Outcome deadLetter(const Job& job, const Failure& failure, int attempts, const Handling& with);

/// Decodes and runs the handler of what came as delivery `index`, or was parked. Nothing when it
/// has returned; throws DatabaseError.
std::optional<Attempt> handleEvent(InboxTransaction& transaction, const Handler& handler,
                                   const Job& job, std::size_t index, HandlerWatch& watch);

/// Nothing between first and most that grows without end: `first * factor^(attempts - 1)`, at most
/// `most`, shortened by up to `jitter` of it; `random` is from 0 to 1.
std::chrono::milliseconds retryWait(const RetryPolicy& policy, int attempts, double random);

}  // namespace pillion::inbox
