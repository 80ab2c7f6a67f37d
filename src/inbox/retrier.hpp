#pragma once

#include <atomic>
#include <chrono>
#include <optional>
#include <pillion/consumer.hpp>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include "base/clock.hpp"
#include "base/once_an_hour.hpp"
#include "base/random.hpp"
#include "base/wake_event.hpp"
#include "inbox/counters.hpp"
#include "inbox/delivery.hpp"

namespace pillion::inbox {

/// Deadlocks and serialization failures are nobody's fault, and gone when tried again: so often at
/// once, before they count as an attempt.
inline constexpr int kMostRepeats = 3;

/// When the consumer's workers look for parked events next. Shared by them.
class NextLook {
 public:
  explicit NextLook(const base::Clock& clock = base::systemClock()) : clock_(clock) {}

  /// Not later than this from now.
  void within(std::chrono::nanoseconds wait);
  /// True for one caller, when it is time; the next look is then `again` away.
  bool take(std::chrono::nanoseconds again);
  [[nodiscard]] std::chrono::milliseconds left() const;

 private:
  const base::Clock& clock_;
  std::atomic<std::int64_t> at_{0};  // nanoseconds since boot
};

/// Tries parked events again, and gives them up. An event
/// that no instance works on is taken by whichever looks first. One per worker; one thread.
class Retrier {
 public:
  Retrier(std::string consumer, const ConsumerOptions& options, Counters& counters, NextLook& next,
          base::OnceAnHour& told, base::WakeEvent& letters,
          base::Random& random = base::systemRandom());

  /// Is it time to look, or is an event still in hand that was not worked on? Other workers, which
  /// look first, cannot give that one back.
  [[nodiscard]] bool due() const { return inHand_ || next_.left() == std::chrono::milliseconds(0); }
  /// Works on events that are due, for a moment at most, unless another worker has just looked.
  /// Throws DatabaseError; what was begun is then taken up in the next turn, or by another instance
  /// when its lease is over.
  void turn(const Handling& with, const std::stop_token& stop);

  /// The wait after so many failed attempts. Looks in time for it.
  std::chrono::milliseconds waitAfter(int attempts);
  /// The failure, with the verdict that these attempts were the last.
  [[nodiscard]] Failure judged(Failure failure, int attempts) const;
  /// PostgreSQL does not let an event go to the dead-letter queue: said once an hour.
  void tellRefusal(const std::string& eventId, const Error& refused);

 private:
  void work(const ParkedEvent& event, const Handling& with);
  void apply(const ParkedEvent& event, int along, const Handling& with);
  static std::size_t handleBehind(InboxTransaction& transaction,
                                  std::span<const ParkedEvent> events, bool usesTransaction,
                                  const Handling& with);
  void leaveToOthers(const ParkedEvent& event, const Handling& with);
  void noteFailure(const ParkedEvent& event, const Failure& failure, const Handling& with);
  void postpone(const ParkedEvent& event, const Failure& failure, const Handling& with);
  /// False when PostgreSQL refuses it.
  bool giveUp(const ParkedEvent& event, const Failure& failure, int attempts, const Handling& with);

  std::string consumer_;
  const ConsumerOptions& options_;
  Counters& counters_;
  NextLook& next_;
  base::OnceAnHour& told_;
  base::WakeEvent& letters_;
  base::Random& random_;
  std::vector<std::string> left_;  // types that have no handler here
  LossesInARow losses_;
  std::optional<Failure> failed_;      // of the one in hand, which could not be noted yet
  std::optional<ParkedEvent> inHand_;  // still there in the next turn: the database went away
};

}  // namespace pillion::inbox
