#pragma once

#include <chrono>

namespace pillion::base {

/// Time as the relay and the consumer see it, so that a test can own it.
class Clock {
 public:
  using Wall = std::chrono::system_clock::time_point;
  /// Time since boot, suspended time included: what leases and pacing are counted on, since neither
  /// a stepped clock nor a suspended machine may stretch them.
  using Boot = std::chrono::nanoseconds;

  virtual ~Clock() = default;
  [[nodiscard]] virtual Wall wall() const = 0;
  [[nodiscard]] virtual Boot boot() const = 0;
};

const Clock& systemClock();

}  // namespace pillion::base
