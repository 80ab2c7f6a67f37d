#include "inbox/delivery_queue.hpp"

#include <algorithm>
#include <utility>

namespace pillion::inbox {
namespace {

constexpr std::chrono::seconds kLongestAside{30};
constexpr std::size_t kMostAside = 10'000;

/// The broker refuses a tag that it has had, also with `multiple`: so it is the last of those, and
/// all before it are done or were acked by themselves. Beyond one that is still open each is acked
/// by itself: a slow handler must not use the prefetch up.
void addAcks(std::vector<DeliveryQueue::Ack>& acks, std::uint64_t consumer,
             const std::vector<std::uint64_t>& done, const std::set<std::uint64_t>& open) {
  std::uint64_t lastBefore = 0;
  for (const std::uint64_t tag : done) {
    if (open.empty() || tag < *open.begin()) {
      lastBefore = std::max(lastBefore, tag);
    } else {
      acks.push_back({consumer, tag, false});
    }
  }
  if (lastBefore != 0) acks.push_back({consumer, lastBefore, true});
}

}  // namespace

void DeliveryQueue::opened(std::uint64_t consumer) {
  const base::MutexLock lock(mutex_);
  consumers_.emplace(consumer, Consumer{});
}

void DeliveryQueue::letGo(std::uint64_t consumer) {
  const base::MutexLock lock(mutex_);
  const auto found = consumers_.find(consumer);
  if (found == consumers_.end()) return;
  found->second.isLetGo = true;
  dropWaiting(consumer);
}

bool DeliveryQueue::isInHand(std::uint64_t consumer) const {
  const base::MutexLock lock(mutex_);
  const auto found = consumers_.find(consumer);
  return found != consumers_.end() && found->second.inHand > 0;
}

Load DeliveryQueue::loadOf(std::uint64_t consumer) const {
  const base::MutexLock lock(mutex_);
  const auto found = consumers_.find(consumer);
  if (found == consumers_.end()) return {};
  Load load{.received = found->second.received,
            .acked = found->second.acked,
            .open = found->second.open.size(),
            .bytes = found->second.bytes,
            .anyIdle = idleWorkers_ > 0};
  const auto now = clock_.boot();
  for (const Job& job : waiting_) {
    if (job.delivery.consumer != consumer || mustWait(job, {}, now)) continue;
    load.oldestReady = now - job.receivedAt;
    break;
  }
  return load;
}

void DeliveryQueue::ended(std::uint64_t consumer) {
  const base::MutexLock lock(mutex_);
  consumers_.erase(consumer);
  dropWaiting(consumer);
}

void DeliveryQueue::dropWaiting(std::uint64_t consumer) {
  std::erase_if(waiting_, [&](const Job& job) { return job.delivery.consumer == consumer; });
}

std::size_t DeliveryQueue::push(amqp::Delivery delivery) {
  std::size_t bytes = 0;
  Job job;
  job.identity = amqp::identityOf(delivery.message);
  job.delivery = std::move(delivery);
  {
    const base::MutexLock lock(mutex_);
    const auto consumer = consumers_.find(job.delivery.consumer);
    if (consumer == consumers_.end() || consumer->second.isLetGo) return 0;
    job.receivedAt = clock_.boot();
    ++consumer->second.received;
    bytes = consumer->second.bytes += job.delivery.message.body.size();
    auto& open = consumer->second.open;
    open.insert(open.end(), job.delivery.tag);
    waiting_.push_back(std::move(job));
    fresh_ = true;
  }
  filled_.notify_one();
  return bytes;
}

std::vector<DeliveryQueue::Ack> DeliveryQueue::takeAcks() {
  const base::MutexLock lock(mutex_);
  std::vector<Ack> acks;
  for (auto& [id, consumer] : consumers_) {
    addAcks(acks, id, std::exchange(consumer.done, {}), consumer.open);
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
  const auto now = clock_.boot();
  for (; looked < waiting_.size() && batch.size() < most; ++looked) {
    Job& job = waiting_[looked];
    if (mustWait(job, mine, now)) {
      left.push_back(std::move(job));
      continue;
    }
    bytes += job.delivery.message.body.size();
    if (!batch.empty() && bytes > limit.bytes) break;
    const amqp::Identity* event = job.event();
    if (event != nullptr && !event->key.empty()) mine.insert(event->key);
    ++consumers_.at(job.delivery.consumer).inHand;  // else it would not be waiting
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
    const auto consumer = consumers_.find(job.delivery.consumer);
    if (consumer == consumers_.end() || consumer->second.open.erase(job.delivery.tag) == 0) return;
    consumer->second.done.push_back(job.delivery.tag);
    ++consumer->second.acked;
    consumer->second.bytes -= job.delivery.message.body.size();
  }
  toBroker_.signal();
}

void DeliveryQueue::release(const std::vector<Job>& jobs) {
  bool lastInHand = false;
  {
    const base::MutexLock lock(mutex_);
    for (const Job& job : jobs) {
      if (const amqp::Identity* event = job.event()) busyKeys_.erase(event->key);
      const auto consumer = consumers_.find(job.delivery.consumer);
      if (consumer == consumers_.end()) continue;
      lastInHand |= --consumer->second.inHand == 0 && consumer->second.isLetGo;
    }
    fresh_ |= !waiting_.empty();
  }
  if (lastInHand) toBroker_.signal();
  filled_.notify_all();
}

std::string DeliveryQueue::nameOf(const amqp::Identity& event) {
  return event.key.empty() ? "id " + event.id : "key " + event.key;
}

bool DeliveryQueue::mustWait(const Job& job, const std::unordered_set<std::string>& mine,
                             base::Clock::Boot now) const {
  const amqp::Identity* event = job.event();
  if (event == nullptr) return false;
  const bool keyed = !event->key.empty();
  return (keyed && !mine.contains(event->key) && busyKeys_.contains(event->key)) ||
         isAside(*event, now);
}

bool DeliveryQueue::isAside(const amqp::Identity& event, base::Clock::Boot now) const {
  if (aside_.empty()) return false;
  const auto aside = aside_.find(nameOf(event));
  return aside != aside_.end() && now < aside->second.until;
}

void DeliveryQueue::setAside(std::span<const Job> jobs) {
  const base::MutexLock lock(mutex_);
  const auto isTaken = [this](const Job& job) PILLION_REQUIRES(mutex_) {
    const auto consumer = consumers_.find(job.delivery.consumer);
    return consumer != consumers_.end() && !consumer->second.isLetGo;
  };
  std::vector<Job> taken;
  std::ranges::copy_if(jobs, std::back_inserter(taken), isTaken);
  if (taken.empty()) return;
  if (aside_.size() >= kMostAside) aside_.clear();
  Aside& aside = aside_[nameOf(*taken.front().event())];
  aside.until = clock_.boot() + aside.pause;
  aside.pause = std::min(2 * aside.pause, kLongestAside);
  waiting_.insert(waiting_.begin(), std::make_move_iterator(taken.begin()),
                  std::make_move_iterator(taken.end()));
}

bool DeliveryQueue::stale(const Job& job) const {
  const base::MutexLock lock(mutex_);
  return !consumers_.contains(job.delivery.consumer);
}

}  // namespace pillion::inbox
