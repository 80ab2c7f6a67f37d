#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "base/clock.hpp"

namespace pillion::inbox {

/// What a consumer of a queue has been sent, and what became of it.
struct Load {
  std::uint64_t received = 0;
  std::uint64_t acked = 0;
  std::size_t open = 0;   // not acked
  std::size_t bytes = 0;  // of the bodies of these
  /// Of those that a worker could take, how long the first one has waited; nothing when there is
  /// none: the others wait for a key that is in hand, or was set aside.
  std::optional<std::chrono::nanoseconds> oldestReady = {};
  bool anyIdle = false;  // a worker finds nothing to do
};

/// How many deliveries the broker may send ahead of their acks. As many as the service wishes, but
/// - fewer, when they take more memory than they may, or wait for a worker for so long that
///   RabbitMQ's `consumer_timeout` would come near;
/// - more, while all of them wait for keys that are held up, and workers have nothing to do: other
///   keys are to go on.
/// RabbitMQ takes another prefetch for a new consumer only, and gives what the old one had back,
/// which counts as a delivery of each: so it is changed by half at least, and not often.
class PrefetchPlan {
 public:
  struct Limits {
    std::uint16_t wanted = 1;
    std::size_t workers = 1;
    std::size_t bytes = 32U << 20;
    std::chrono::nanoseconds longestWait = std::chrono::minutes(1);
  };

  explicit PrefetchPlan(const Limits& limits) : limits_(limits), now_(limits.wanted) {}

  [[nodiscard]] std::uint16_t now() const { return now_; }

  /// A consumer was opened with it.
  void opened(base::Clock::Boot now) {
    openedAt_ = now;
    ackedBefore_ = 0;
    starved_ = 0;
  }

  /// To be asked about once a second. True: a consumer is to be opened with another one.
  bool reconsider(const Load& load, base::Clock::Boot now) {
    starved_ = isStarved(load) ? starved_ + 1 : 0;
    const std::size_t wanted = better(load, now);
    ackedBefore_ = load.acked;
    if (wanted == now_) return false;
    now_ = static_cast<std::uint16_t>(wanted);
    return true;
  }

 private:
  /// Other keys are worth this many times as much memory as was asked for.
  static constexpr std::size_t kMostTimes = 16;
  static constexpr int kStarvedLongEnough = 2;
  /// After it was made less: longer each time, since every change counts as a delivery.
  static constexpr std::chrono::minutes kLessFor{5};
  static constexpr std::chrono::hours kLessForMost{8};

  std::size_t better(const Load& load, base::Clock::Boot now) {
    if (load.bytes > limits_.bytes && load.open > 1) {
      return less(limits_.bytes * load.open / load.bytes, now);
    }
    if (load.oldestReady > limits_.longestWait) {
      const double ages = static_cast<double>((now - openedAt_).count()) /
                          static_cast<double>(limits_.longestWait.count());
      const double handled = static_cast<double>(load.acked) / std::max(1.0, ages);
      return less(std::max(limits_.workers, static_cast<std::size_t>(handled / 2)), now);
    }
    if (now < lessUntil_) return now_;
    if (now_ < limits_.wanted && load.acked - ackedBefore_ >= now_) {
      return std::min<std::size_t>(std::size_t{2} * now_, limits_.wanted);
    }
    if (starved_ < kStarvedLongEnough || 2 * load.bytes > limits_.bytes) return now_;
    const std::size_t most = std::min<std::size_t>(kMostTimes * limits_.wanted, UINT16_MAX);
    return std::max<std::size_t>(now_, std::min<std::size_t>(std::size_t{2} * now_, most));
  }

  std::size_t less(std::size_t fitting, base::Clock::Boot now) {
    lessUntil_ = now + lessFor_;
    lessFor_ = std::min<std::chrono::nanoseconds>(2 * lessFor_, kLessForMost);
    return std::clamp<std::size_t>(fitting, 1, std::max(1, now_ / 2));
  }

  [[nodiscard]] bool isStarved(const Load& load) const {
    return load.anyIdle && load.open >= now_ && !load.oldestReady;
  }

  Limits limits_;
  std::uint16_t now_;
  base::Clock::Boot openedAt_{0};
  base::Clock::Boot lessUntil_{0};
  std::chrono::nanoseconds lessFor_ = kLessFor;
  std::uint64_t ackedBefore_ = 0;
  int starved_ = 0;
};

}  // namespace pillion::inbox
