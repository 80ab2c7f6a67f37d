#include "inbox/delivery_queue.hpp"

#include <utility>

namespace pillion::inbox {

void DeliveryQueue::newChannel() {
  const std::scoped_lock lock(mutex_);
  ++channel_;
  waiting_.clear();
  acks_.clear();
}

void DeliveryQueue::push(amqp::Delivery delivery) {
  {
    const std::scoped_lock lock(mutex_);
    waiting_.push_back(std::move(delivery));
  }
  filled_.notify_one();
}

std::vector<std::uint64_t> DeliveryQueue::takeAcks() {
  const std::scoped_lock lock(mutex_);
  return std::exchange(acks_, {});
}

std::optional<Job> DeliveryQueue::pop(std::chrono::milliseconds limit,
                                      const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  filled_.wait_for(lock, stop, limit, [this] { return !waiting_.empty(); });
  if (waiting_.empty() || stop.stop_requested()) return std::nullopt;
  Job job{std::move(waiting_.front()), channel_};
  waiting_.pop_front();
  return job;
}

void DeliveryQueue::ack(const Job& job) {
  {
    const std::scoped_lock lock(mutex_);
    if (job.channel != channel_) return;
    acks_.push_back(job.delivery.tag);
  }
  toBroker_.signal();
}

bool DeliveryQueue::stale(const Job& job) const {
  const std::scoped_lock lock(mutex_);
  return job.channel != channel_;
}

}  // namespace pillion::inbox
