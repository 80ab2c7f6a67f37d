#include "inbox/delivery_queue.hpp"

#include <algorithm>
#include <utility>

namespace pillion::inbox {
namespace {

constexpr std::chrono::seconds kLongestAside{30};
constexpr std::size_t kMostAside = 10'000;

}  // namespace

void DeliveryQueue::newChannel() {
  const base::MutexLock lock(mutex_);
  ++channel_;
  waiting_.clear();
  open_.clear();
  done_.clear();
}

void DeliveryQueue::push(amqp::Delivery delivery) {
  Job job;
  job.identity = amqp::identityOf(delivery.message);
  job.delivery = std::move(delivery);
  {
    const base::MutexLock lock(mutex_);
    job.channel = channel_;
    open_.insert(open_.end(), job.delivery.tag);
    waiting_.push_back(std::move(job));
    fresh_ = true;
  }
  filled_.notify_one();
}

std::vector<DeliveryQueue::Ack> DeliveryQueue::takeAcks() {
  const base::MutexLock lock(mutex_);
  const auto done = std::exchange(done_, {});
  std::vector<Ack> acks;
  // The broker refuses a tag that it has had, also with `multiple`: so it is the last of these, and
  // all before it are done or were acked by themselves. Beyond one that is still open each is acked
  // by itself: a slow handler must not use the prefetch up.
  std::uint64_t lastBefore = 0;
  for (const std::uint64_t tag : done) {
    if (open_.empty() || tag < *open_.begin()) {
      lastBefore = std::max(lastBefore, tag);
    } else {
      acks.push_back({tag, false});
    }
  }
  if (lastBefore != 0) acks.push_back({lastBefore, true});
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
  const auto now = clock_.boot();
  for (; looked < waiting_.size() && batch.size() < most; ++looked) {
    Job& job = waiting_[looked];
    const amqp::Identity* event = job.event();
    const bool keyed = event != nullptr && !event->key.empty();
    const bool busy = keyed && !mine.contains(event->key) && busyKeys_.contains(event->key);
    if (busy || (event != nullptr && isAside(*event, now))) {
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
    if (const amqp::Identity* event = job.event()) {
      if (!aside_.empty()) aside_.erase(nameOf(*event));
    }
    if (job.channel != channel_ || open_.erase(job.delivery.tag) == 0) return;
    done_.push_back(job.delivery.tag);
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

std::string DeliveryQueue::nameOf(const amqp::Identity& event) {
  return event.key.empty() ? "id " + event.id : "key " + event.key;
}

bool DeliveryQueue::isAside(const amqp::Identity& event, base::Clock::Boot now) const {
  if (aside_.empty()) return false;
  const auto aside = aside_.find(nameOf(event));
  return aside != aside_.end() && now < aside->second.until;
}

void DeliveryQueue::setAside(std::span<const Job> jobs) {
  const base::MutexLock lock(mutex_);
  if (jobs.empty() || jobs.front().channel != channel_) return;
  if (aside_.size() >= kMostAside) aside_.clear();
  Aside& aside = aside_[nameOf(*jobs.front().event())];
  aside.until = clock_.boot() + aside.pause;
  aside.pause = std::min(2 * aside.pause, kLongestAside);
  waiting_.insert(waiting_.begin(), jobs.begin(), jobs.end());
}

bool DeliveryQueue::stale(const Job& job) const {
  const base::MutexLock lock(mutex_);
  return job.channel != channel_;
}

}  // namespace pillion::inbox
