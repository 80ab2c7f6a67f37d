#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

#include "base/clock.hpp"

namespace pillion::inbox {

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

}  // namespace pillion::inbox
