#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <utility>
#include <vector>

#include "amqp/channel.hpp"

namespace pillion::relay {

/// What the broker finally said of one published message.
enum class Verdict {
  Routed,      ///< confirmed, and at least one queue has it
  Unroutable,  ///< confirmed after a basic.return: nobody has it
  Nacked,      ///< basic.nack: not stored, for now
};

/// Bookkeeping from delivery tags to what was sent under them. Confirms come in any order, singly
/// or `multiple` (every outstanding tag up to this one); a return has no tag and precedes the
/// confirm of its message (RabbitMQ, "Consumer Acknowledgements and Publisher Confirms"). No I/O.
template <typename Value>
class ConfirmTracker {
 public:
  using Time = std::chrono::nanoseconds;

  /// Tags are handed out one by one, beginning with 1 on a new channel.
  void sent(std::uint64_t tag, Value value, Time when = {}) {
    if (entries_.empty()) first_ = tag;
    entries_.push_back(Entry{std::move(value), when});
    ++outstanding_;
  }

  /// Marks the oldest outstanding message that `isIt` as returned; false when there is none.
  template <typename Predicate>
  bool returned(const Predicate& isIt) {
    for (Entry& entry : entries_) {
      if (!entry.value || entry.returned || !isIt(*entry.value)) continue;
      entry.returned = true;
      return true;
    }
    return false;
  }

  /// Hands each message that the confirm settles to `settle(Verdict, Value)`. Tags that are settled
  /// already, or were never sent, are passed over.
  template <typename Settle>
  void confirmed(const amqp::Confirm& confirm, const Settle& settle) {
    if (confirm.tag < first_ || confirm.tag - first_ >= entries_.size()) return;
    const std::size_t last = confirm.tag - first_;
    for (std::size_t at = confirm.multiple ? 0 : last; at <= last; ++at) {
      Entry& entry = entries_[at];
      if (!entry.value) continue;
      Value value = std::move(*entry.value);
      entry.value.reset();
      --outstanding_;
      settle(!confirm.positive ? Verdict::Nacked
             : entry.returned  ? Verdict::Unroutable
                               : Verdict::Routed,
             std::move(value));
    }
    dropSettled();
  }

  /// The outstanding ones that `isIt(value, sent)`, in the order in which they were sent. They are
  /// no longer tracked: a confirm that comes after all is passed over.
  template <typename Predicate>
  std::vector<Value> takeWhere(const Predicate& isIt) {
    std::vector<Value> values;
    for (Entry& entry : entries_) {
      if (!entry.value || !isIt(*entry.value, entry.sent)) continue;
      values.push_back(std::move(*entry.value));
      entry.value.reset();
      entry.sent = {};  // nobody has confirmed it
      --outstanding_;
    }
    dropSettled();
    return values;
  }

  [[nodiscard]] std::size_t count(const auto& isIt) const {
    return static_cast<std::size_t>(std::ranges::count_if(
        entries_, [&](const Entry& entry) { return entry.value && isIt(*entry.value); }));
  }
  /// The oldest outstanding one; needs one.
  [[nodiscard]] const Value& oldest() const { return *entries_.front().value; }

  /// Was something confirmed that was sent after the oldest outstanding one? A broker that is only
  /// slow confirms what goes to one queue in its order. Needs an outstanding one.
  [[nodiscard]] bool isOvertaken() const {
    return std::ranges::any_of(entries_, [&](const Entry& entry) {
      return !entry.value && entry.sent > entries_.front().sent;
    });
  }

  /// The channel is gone: everything outstanding is unknown. In the order in which it was sent.
  std::vector<Value> takeAll() {
    std::vector<Value> values;
    for (Entry& entry : entries_) {
      if (entry.value) values.push_back(std::move(*entry.value));
    }
    entries_.clear();
    outstanding_ = 0;
    return values;
  }

  [[nodiscard]] std::size_t outstanding() const { return outstanding_; }

  /// When the oldest outstanding message was sent; needs one.
  [[nodiscard]] Time oldestSent() const { return entries_.front().sent; }

 private:
  void dropSettled() {
    while (!entries_.empty() && !entries_.front().value) {
      entries_.pop_front();
      ++first_;
    }
  }

  struct Entry {
    std::optional<Value> value;  // nothing once settled
    Time sent{};
    bool returned = false;
  };

  std::deque<Entry> entries_;
  std::uint64_t first_ = 1;  // tag of entries_.front()
  std::size_t outstanding_ = 0;
};

}  // namespace pillion::relay
