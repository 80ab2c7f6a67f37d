#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <stop_token>
#include <vector>

#include "amqp/channel.hpp"
#include "base/wake_event.hpp"

namespace pillion::inbox {

/// A delivery and the channel it came on: its tag means nothing on the next one.
struct Job {
  amqp::Delivery delivery;
  std::uint64_t channel = 0;
};

/// Where the thread that talks to the broker and the thread that runs the handlers meet. Bounded by
/// the prefetch, since nothing leaves it before it is acked.
class DeliveryQueue {
 public:
  /// `toBroker` is raised when there is something for the broker's thread to do.
  explicit DeliveryQueue(base::WakeEvent& toBroker) : toBroker_(toBroker) {}

  // The broker's thread.

  /// A new channel: what came on the old one and was not begun will be delivered again.
  void newChannel();
  void push(amqp::Delivery delivery);
  /// Tags to be acked on the present channel.
  std::vector<std::uint64_t> takeAcks();

  // The handlers' thread.

  /// The next job, or nothing after the limit or when stop was requested.
  std::optional<Job> pop(std::chrono::milliseconds limit, const std::stop_token& stop);
  void ack(const Job& job);
  /// Has the channel of this job been lost meanwhile?
  [[nodiscard]] bool stale(const Job& job) const;

 private:
  base::WakeEvent& toBroker_;
  mutable std::mutex mutex_;
  std::condition_variable_any filled_;
  std::uint64_t channel_ = 0;  // guarded by mutex_, as all below
  std::deque<amqp::Delivery> waiting_;
  std::vector<std::uint64_t> acks_;
};

}  // namespace pillion::inbox
