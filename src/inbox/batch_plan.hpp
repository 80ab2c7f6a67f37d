#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>

namespace pillion::inbox {

/// How many of the deliveries at hand are tried together, so that one that fails is found and taken
/// out: after a batch stopped at one of them, those before it go alone, then that one by itself,
/// then the rest.
class BatchPlan {
 public:
  [[nodiscard]] std::size_t size(std::size_t left) const { return std::min({left, limit_, most_}); }

  /// From now on.
  void atMost(std::size_t events) { most_ = events; }

  void succeeded() {
    limit_ = suspectNext_ ? 1 : kAll;
    suspectNext_ = false;
  }

  /// So many come first, in a batch of their own.
  void atFirst(std::size_t events) {
    limit_ = events;
    suspectNext_ = false;
  }

  /// Of a batch of more than one.
  void stoppedAt(std::size_t index) {
    suspectNext_ = index > 0;
    limit_ = std::max<std::size_t>(index, 1);
  }

 private:
  static constexpr std::size_t kAll = std::numeric_limits<std::size_t>::max();
  std::size_t limit_ = kAll;
  std::size_t most_ = kAll;
  bool suspectNext_ = false;
};

/// How many events make about a tenth of a second of work: the time for which a batch holds its
/// locks.
class BatchSize {
 public:
  static std::size_t fitting(std::size_t events, std::chrono::nanoseconds time) {
    constexpr std::chrono::nanoseconds kTarget = std::chrono::milliseconds(100);
    const auto each = std::max<std::int64_t>(1, time.count() / static_cast<std::int64_t>(events));
    return static_cast<std::size_t>(std::max<std::int64_t>(1, kTarget.count() / each));
  }

  explicit BatchSize(std::size_t most) : most_(most) {}

  [[nodiscard]] std::size_t now() const { return size_; }

  void took(std::size_t events, std::chrono::nanoseconds time) {
    size_ = std::clamp<std::size_t>(std::min(fitting(events, time), 2 * size_), 1, most_);
  }

 private:
  std::size_t most_;
  std::size_t size_ = std::min<std::size_t>(8, most_);
};

}  // namespace pillion::inbox
