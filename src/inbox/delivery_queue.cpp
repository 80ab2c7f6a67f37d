#include "inbox/delivery_queue.hpp"

#include <algorithm>
#include <utility>

namespace pillion::inbox {

void DeliveryQueue::newChannel() {
  const base::MutexLock lock(mutex_);
  ++channel_;
  waiting_.clear();
  tags_.clear();
  firstOpenTag_ = 1;
}

void DeliveryQueue::push(amqp::Delivery delivery) {
  Job job;
  job.identity = amqp::identityOf(delivery.message);
  job.delivery = std::move(delivery);
  {
    const base::MutexLock lock(mutex_);
    job.channel = channel_;
    const std::uint64_t tag = job.delivery.tag;
    if (tags_.empty()) firstOpenTag_ = tag;
    tags_.resize(tag - firstOpenTag_ + 1, Tag::Open);
    waiting_.push_back(std::move(job));
    fresh_ = true;
  }
  filled_.notify_one();
}

std::vector<DeliveryQueue::Ack> DeliveryQueue::takeAcks() {
  const base::MutexLock lock(mutex_);
  std::vector<Ack> acks;
  std::uint64_t lastDone = 0;  // the broker refuses a tag that it has had, also with `multiple`
  while (!tags_.empty() && tags_.front() != Tag::Open) {
    if (tags_.front() == Tag::Done) lastDone = firstOpenTag_;
    tags_.pop_front();
    ++firstOpenTag_;
  }
  if (lastDone != 0) acks.push_back({lastDone, true});
  // Beyond one that is still open: a slow handler must not use the prefetch up.
  for (std::size_t i = 0; i < tags_.size(); ++i) {
    if (tags_[i] != Tag::Done) continue;
    tags_[i] = Tag::Acked;
    acks.push_back({firstOpenTag_ + i, false});
  }
  return acks;
}

std::vector<Job> DeliveryQueue::pop(const BatchLimit& limit, std::chrono::milliseconds wait,
                                    const std::stop_token& stop) {
  base::MutexLock lock(mutex_);
  const auto end = std::chrono::steady_clock::now() + wait;
  ++idleWorkers_;
  std::vector<Job> batch;
  while (!stop.stop_requested()) {
    const std::size_t share = (waiting_.size() + idleWorkers_ - 1) / idleWorkers_;
    batch = takeBatch(limit, share);
    if (!batch.empty()) break;
    fresh_ = false;
    if (!filled_.wait_until(lock, stop, end, [this]() PILLION_REQUIRES(mutex_) { return fresh_; }))
      break;
  }
  --idleWorkers_;
  const bool more = !waiting_.empty() && idleWorkers_ > 0;
  lock.unlock();
  if (more) filled_.notify_one();
  return batch;
}

std::vector<Job> DeliveryQueue::takeBatch(const BatchLimit& limit, std::size_t share) {
  const std::size_t most = std::min(limit.events, share);
  std::vector<Job> batch;
  std::unordered_set<std::string> mine;
  std::size_t bytes = 0;
  std::deque<Job> left;
  std::size_t looked = 0;
  for (; looked < waiting_.size() && batch.size() < most; ++looked) {
    Job& job = waiting_[looked];
    const amqp::Identity* event = job.event();
    const bool keyed = event != nullptr && !event->key.empty();
    if (keyed && !mine.contains(event->key) && busyKeys_.contains(event->key)) {
      left.push_back(std::move(job));
      continue;
    }
    bytes += job.delivery.message.body.size();
    if (!batch.empty() && bytes > limit.bytes) break;
    if (keyed) mine.insert(event->key);
    batch.push_back(std::move(job));
  }
  waiting_.erase(waiting_.begin(), waiting_.begin() + static_cast<std::ptrdiff_t>(looked));
  waiting_.insert(waiting_.begin(), std::make_move_iterator(left.begin()),
                  std::make_move_iterator(left.end()));
  busyKeys_.merge(mine);
  return batch;
}

void DeliveryQueue::ack(const Job& job) {
  {
    const base::MutexLock lock(mutex_);
    if (job.channel != channel_ || job.delivery.tag < firstOpenTag_) return;
    const std::uint64_t at = job.delivery.tag - firstOpenTag_;
    if (at < tags_.size() && tags_[at] == Tag::Open) tags_[at] = Tag::Done;
  }
  toBroker_.signal();
}

void DeliveryQueue::release(const std::vector<Job>& jobs) {
  {
    const base::MutexLock lock(mutex_);
    for (const Job& job : jobs) {
      if (const amqp::Identity* event = job.event()) busyKeys_.erase(event->key);
    }
    if (waiting_.empty()) return;
    fresh_ = true;
  }
  filled_.notify_all();
}

void DeliveryQueue::putBack(std::span<const Job> jobs) {
  const base::MutexLock lock(mutex_);
  if (jobs.empty() || jobs.front().channel != channel_) return;
  waiting_.insert(waiting_.begin(), jobs.begin(), jobs.end());
  fresh_ = true;
}

bool DeliveryQueue::stale(const Job& job) const {
  const base::MutexLock lock(mutex_);
  return job.channel != channel_;
}

}  // namespace pillion::inbox
