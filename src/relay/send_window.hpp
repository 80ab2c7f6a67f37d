#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>

#include "base/clock.hpp"

namespace pillion::relay {

/// May one more be sent on this channel, and does the broker still answer on it? No I/O.
class SendWindow {
 public:
  using Boot = base::Clock::Boot;

  SendWindow(std::size_t events, std::size_t bytes, Boot stall)
      : mostEvents_(events), mostBytes_(bytes), stall_(stall) {}

  /// A new channel: nothing is in flight, and nothing is known of it. It is tried with one message:
  /// a broker under a resource alarm takes it, says that it blocks, and nothing hangs in its
  /// socket.
  void reset(Boot now) {
    events_ = bytes_ = alone_ = 0;
    proven_ = false;
    tries_ = 1;
    heardAt_ = now;
  }
  /// Of the first one, that was sent then, the broker says neither that it has it nor that it
  /// blocks: its queue may hang. A few others are tried beside it.
  void tryOthers(Boot sent, Boot now) {
    if (!proven_ && now - std::max(sent, unblockedAt_) >= kLag) tries_ = kTries;
  }

  /// The next ones are sent one by one: one of them may be the reason why the channel was closed.
  void sendAlone(std::size_t events) { alone_ = std::max(alone_, events); }

  [[nodiscard]] bool roomFor(std::size_t bytes) const {
    if (events_ == 0) return true;
    if (alone_ > 0) return false;
    if (!proven_) return events_ < tries_ && bytes_ + bytes <= kTriedBytes;
    return events_ < mostEvents_ && bytes_ + bytes <= mostBytes_;
  }

  void sent(std::size_t bytes) {
    ++events_;
    bytes_ += bytes;
  }

  /// The broker has spoken of it, or it was given up.
  void settled(std::size_t bytes) {
    --events_;
    bytes_ -= bytes;
    if (alone_ > 0) --alone_;
  }

  void confirmed(Boot now) {
    proven_ = true;
    heardAt_ = now;
  }
  /// While the broker blocks publishers, time does not count.
  void unblocked(Boot now) { unblockedAt_ = now; }

  [[nodiscard]] std::size_t inFlight() const { return events_; }
  /// At least one confirm came on this channel.
  [[nodiscard]] bool proven() const { return proven_; }

  /// What was sent then should have been confirmed by now. The first message on a channel is alone,
  /// and all others wait for it, so not for as long.
  [[nodiscard]] bool overdue(Boot sent, Boot now) const {
    const Boot limit = proven_ ? stall_ : std::min<Boot>(stall_, kFirstWord);
    return events_ > 0 && now - std::max(sent, unblockedAt_) >= limit;
  }
  /// Others were confirmed lately: if something is overdue, that is its queue's fault alone.
  [[nodiscard]] bool alive(Boot now) const { return heardWithin(stall_, now); }
  [[nodiscard]] bool heardWithin(Boot time, Boot now) const {
    return proven_ && now - heardAt_ < time;
  }
  /// Something that was sent then is late, while others are confirmed: its queue may hang.
  [[nodiscard]] bool lags(Boot sent, Boot now) const {
    return events_ > 0 && now - std::max(sent, unblockedAt_) >= kLag && heardWithin(kLag, now);
  }

 private:
  static constexpr std::chrono::seconds kLag{1};
  static constexpr std::chrono::seconds kFirstWord{10};
  static constexpr std::size_t kTries = 64;
  static constexpr std::size_t kTriedBytes = 64 * 1024;  // a socket takes them all

  std::size_t mostEvents_;
  std::size_t mostBytes_;
  Boot stall_;
  std::size_t events_ = 0;
  std::size_t bytes_ = 0;
  std::size_t alone_ = 0;
  std::size_t tries_ = 1;
  bool proven_ = false;
  Boot heardAt_{0};
  Boot unblockedAt_{0};
};

}  // namespace pillion::relay
