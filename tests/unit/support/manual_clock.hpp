#pragma once

#include "base/clock.hpp"

namespace pillion::test {

/// Stands still until it is moved.
class ManualClock : public base::Clock {
 public:
  [[nodiscard]] Wall wall() const override { return wallTime; }
  [[nodiscard]] Boot boot() const override { return bootTime; }

  void advance(std::chrono::nanoseconds duration) {
    bootTime += duration;
    wallTime += std::chrono::duration_cast<Wall::duration>(duration);
  }

  Wall wallTime{std::chrono::sys_days(std::chrono::year(2026) / 1 / 31)};
  Boot bootTime{std::chrono::hours(1)};
};

}  // namespace pillion::test
