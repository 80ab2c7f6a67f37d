#pragma once

#include <chrono>
#include <cstddef>
#include <map>
#include <string>

#include "base/clock.hpp"
#include "base/thread_safety.hpp"

namespace pillion::base {

/// Lets a log line through once an hour for each of the things that it may be about. Any thread.
class OnceAnHour {
 public:
  explicit OnceAnHour(const Clock& clock = systemClock()) : clock_(clock) {}

  bool mayTell(const std::string& about) {
    const MutexLock lock(mutex_);
    const auto now = clock_.boot();
    if (next_.size() >= kMost) next_.clear();
    auto& next = next_[about];
    if (now < next) return false;
    next = now + std::chrono::hours(1);
    return true;
  }

 private:
  static constexpr std::size_t kMost = 1'000;

  const Clock& clock_;
  Mutex mutex_;
  std::map<std::string, Clock::Boot> next_ PILLION_GUARDED_BY(mutex_);
};

}  // namespace pillion::base
