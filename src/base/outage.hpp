#pragma once

#include <optional>
#include <pillion/error.hpp>
#include <string>

#include "base/clock.hpp"

namespace pillion::base {

/// Says that something is away when it begins, every few minutes while it lasts, and when it is
/// over: a minute of outage is two lines of log, not one per attempt.
class Outage {
 public:
  explicit Outage(std::string who, const Clock& clock = systemClock())
      : who_(std::move(who)), clock_(&clock) {}

  void began(const Error& error);
  void ended();
  /// It lasts, but what passes within this time is not said: is `began` to be told now, with a
  /// reason that takes some work to find out?
  [[nodiscard]] bool due(Clock::Boot after);

 private:
  std::string who_;
  const Clock* clock_;
  std::string reason_;                // that was said last; empty: none yet
  std::optional<Clock::Boot> began_;  // all is well without it
  Clock::Boot nextLine_{0};
};

}  // namespace pillion::base
