#pragma once

#include <atomic>
#include <chrono>
#include <list>
#include <optional>
#include <string>

#include "base/clock.hpp"
#include "base/thread_safety.hpp"

namespace pillion::inbox {

/// Which handlers are running, and since when: so that one that hangs can be seen from another
/// thread. Any thread.
class HandlerWatch {
 public:
  struct Running {
    std::string eventId;
    std::string type;
    base::Clock::Boot since{0};
    bool reported = false;
  };

  explicit HandlerWatch(const base::Clock& clock = base::systemClock()) : clock_(clock) {}

  /// A handler is running for as long as this lives.
  class Guard {
   public:
    Guard(HandlerWatch& watch, std::string eventId, std::string type) : watch_(watch) {
      const base::MutexLock lock(watch_.mutex_);
      mine_ = watch_.running_.insert(watch_.running_.end(),
                                     {std::move(eventId), std::move(type), watch_.clock_.boot()});
    }
    ~Guard() {
      const base::MutexLock lock(watch_.mutex_);
      watch_.running_.erase(mine_);
    }
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;

   private:
    HandlerWatch& watch_;
    std::list<Running>::iterator mine_;
  };

  /// Nobody waits for them any more: what they have done is to be rolled back when they return.
  void abandon() { abandoned_ = true; }
  [[nodiscard]] bool abandoned() const { return abandoned_; }

  /// One that has run for longer than this and was not reported before.
  std::optional<Running> overdue(std::chrono::nanoseconds limit) {
    const base::MutexLock lock(mutex_);
    for (Running& one : running_) {
      if (one.reported || clock_.boot() - one.since < limit) continue;
      one.reported = true;
      return one;
    }
    return std::nullopt;
  }

  /// The one that has run for longest.
  [[nodiscard]] std::optional<Running> oldest() const {
    const base::MutexLock lock(mutex_);
    if (running_.empty()) return std::nullopt;
    return running_.front();
  }

  [[nodiscard]] std::chrono::milliseconds longest() const {
    const auto one = oldest();
    if (!one) return std::chrono::milliseconds(0);
    return std::chrono::duration_cast<std::chrono::milliseconds>(clock_.boot() - one->since);
  }

 private:
  const base::Clock& clock_;
  std::atomic<bool> abandoned_{false};
  mutable base::Mutex mutex_;
  std::list<Running> running_ PILLION_GUARDED_BY(mutex_);  // the oldest first
};

}  // namespace pillion::inbox
