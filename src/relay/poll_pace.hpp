#pragma once

#include <algorithm>
#include <chrono>

#include "base/clock.hpp"

namespace pillion::relay {

/// When to look at the outbox again: at once while there is more, at the first interval while
/// events flowed lately (half of it when they come so fast that few looks are in vain), then less
/// and less often.
class PollPace {
 public:
  using Boot = base::Clock::Boot;

  PollPace(std::chrono::milliseconds first, std::chrono::milliseconds most)
      : first_(first), most_(std::max(first, most)), interval_(first) {}

  /// `more`: there is more to read at once. That is a backlog, which says nothing of how events
  /// come now.
  void foundEvents(Boot now, bool more) {
    next_ = now;
    if (more) return;
    gap_ = (3 * gap_ + std::min(now - lastFound_, kFlowing)) / 4;
    lastFound_ = now;
    interval_ = std::clamp(gap_ / 4, first_ / 2, first_);
    next_ = now + interval_;
  }

  void foundNothing(Boot now) {
    if (now - lastFound_ > kFlowing) interval_ = std::min(interval_ * 3 / 2, most_);
    next_ = now + interval_;
  }

  void lookNow() { next_ = Boot{0}; }
  /// Nothing was found for long enough that looks are as rare as they get.
  [[nodiscard]] bool idle() const { return interval_ == most_; }
  /// The next look is only for the case that a wake-up was missed.
  void sleep(Boot until) { next_ = until; }
  [[nodiscard]] Boot next() const { return next_; }

 private:
  static constexpr Boot kFlowing = std::chrono::milliseconds(100);

  Boot first_;
  Boot most_;
  Boot interval_;
  Boot lastFound_{0};
  Boot gap_ = kFlowing;  // between finds, on average
  Boot next_{0};
};

}  // namespace pillion::relay
