#pragma once

#include <chrono>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include "base/random.hpp"
#include "inbox/delivery.hpp"
#include "inbox/shared.hpp"

namespace pillion::inbox {

/// Deadlocks and serialization failures are nobody's fault, and gone when tried again: so often at
/// once, before they count as an attempt.
inline constexpr int kMostRepeats = 3;

/// Tries parked events again, and gives them up. An event
/// that no instance works on is taken by whichever looks first. One per worker; one thread.
class Retrier {
 public:
  explicit Retrier(const Shared& shared, base::Random& random = base::systemRandom())
      : shared_(shared), random_(random) {}

  /// Is it time to look, or is an event still in hand that was not worked on? Other workers, which
  /// look first, cannot give that one back.
  [[nodiscard]] bool due() const {
    return inHand_ || shared_.nextLook.left() == std::chrono::milliseconds(0);
  }
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
  Attempt apply(const ParkedEvent& event, int along, const Handling& with);
  static std::optional<Attempt> handleBehind(InboxTransaction& transaction,
                                             std::vector<ParkedEvent>& events, bool usesTransaction,
                                             const Handling& with);
  void leaveToOthers(const ParkedEvent& event, const Handling& with);
  void noteFailure(const ParkedEvent& event, const Failure& failure, const Handling& with);
  void postpone(const ParkedEvent& event, const Failure& failure, const Handling& with);
  /// False when PostgreSQL refuses it.
  bool giveUp(const ParkedEvent& event, const Failure& failure, int attempts, const Handling& with);

  const Shared& shared_;
  base::Random& random_;
  std::vector<std::string> left_;  // types that have no handler here
  LossesInARow losses_;
  std::optional<Failure> failed_;      // of the one in hand, which could not be noted yet
  std::optional<ParkedEvent> inHand_;  // still there in the next turn: the database went away
};

}  // namespace pillion::inbox
