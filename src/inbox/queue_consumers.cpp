#include "inbox/queue_consumers.hpp"

#include <algorithm>
#include <pillion/error.hpp>
#include <utility>

#include "base/log_line.hpp"

namespace pillion::inbox {
namespace {

/// A handler that hangs keeps its queue no longer than this from another instance. There its events
/// wait for the transaction that has them, and no others do.
constexpr std::chrono::seconds kLongestLetGo{5};
constexpr std::chrono::seconds kReconsider{1};
constexpr std::chrono::minutes kLongestEnd{1};
constexpr std::chrono::seconds kSlowOpen{10};

}  // namespace

QueueConsumers::QueueConsumers(std::string consumer, const BrokerOptions& options,
                               const PrefetchPlan::Limits& prefetch, DeliveryQueue& queue)
    : consumer_(std::move(consumer)), options_(options), prefetch_(prefetch), queue_(queue) {}

void QueueConsumers::connected(amqp::Connection& connection) {
  connection_ = &connection;
}

void QueueConsumers::disconnected() {
  connection_ = nullptr;
  for (const auto& [queue, one] : std::exchange(byQueue_, {})) queue_.ended(one.id);
}

void QueueConsumers::follow(const QueueNames& wanted) {
  reconsiderPrefetch();
  sayWhatIsSlow();
  for (const std::string& queue : wanted) {
    if (!byQueue_.contains(queue)) open(queue);
  }
  for (auto& [queue, one] : byQueue_) {
    if (one.letGoAt || !wanted.contains(queue)) letGo(one);
  }
  std::erase_if(troubles_, [&](const auto& trouble) { return !wanted.contains(trouble.first); });
}

void QueueConsumers::open(const std::string& queue) {
  const auto trouble = troubles_.find(queue);
  if (trouble != troubles_.end() && base::systemClock().boot() < trouble->second.notBefore) return;
  PrefetchPlan& plan = plans_.try_emplace(queue, prefetch_).first->second;
  plan.opened(base::systemClock().boot());
  const std::uint64_t id = connection_->consume(queue, plan.now());
  queue_.opened(id);
  byQueue_[queue] = {.id = id, .askedAt = base::systemClock().boot()};
}

/// A queue without its majority answers when it has one again.
void QueueConsumers::sayWhatIsSlow() {
  const auto now = base::systemClock().boot();
  for (auto& [queue, one] : byQueue_) {
    if (one.isOpen || one.isSlow || now - one.askedAt < kSlowOpen) continue;
    one.isSlow = true;
    failed(queue, BrokerError("RabbitMQ does not say whether it may be consumed: has the queue a"
                              " majority?"));
  }
}

void QueueConsumers::reconsiderPrefetch() {
  const auto now = base::systemClock().boot();
  if (now < nextReconsidering_) return;
  nextReconsidering_ = now + kReconsider;
  for (auto& [queue, one] : byQueue_) {
    if (one.letGoAt) continue;
    PrefetchPlan& plan = plans_.try_emplace(queue, prefetch_).first->second;
    const auto before = plan.now();
    if (!plan.reconsider(queue_.loadOf(one.id), now)) continue;
    base::log.info("consumer '{}': queue '{}' has a prefetch of {} from now on, {} before",
                   consumer_, queue, plan.now(), before);
    letGo(one);
  }
}

void QueueConsumers::letGo(One& one) {
  const auto now = base::systemClock().boot();
  if (!one.letGoAt) {
    one.letGoAt = now;
    queue_.letGo(one.id);
  }
  if (now - *one.letGoAt > kLongestEnd) {
    throw BrokerError("RabbitMQ does not end a consumer's channel");
  }
  const bool isOver = !queue_.isInHand(one.id) || now - *one.letGoAt > kLongestLetGo;
  if (!isOver || std::exchange(one.isEnding, true)) return;
  sendAcks();
  connection_->endConsumer(one.id);
}

void QueueConsumers::sendAcks() {
  for (const auto& [consumer, tag, multiple] : queue_.takeAcks()) {
    connection_->ack(consumer, tag, multiple);
  }
}

void QueueConsumers::opened(const amqp::ConsumerOpened& opened) {
  for (auto& [queue, one] : byQueue_) {
    if (one.id != opened.consumer) continue;
    one.isOpen = true;
    const auto trouble = troubles_.find(queue);
    if (trouble != troubles_.end()) trouble->second.outage.works();
  }
}

void QueueConsumers::cancelled(const amqp::ConsumerCancelled& cancelled) {
  failed(cancelled.queue,
         BrokerError("RabbitMQ cancelled the consumer: the queue was deleted or moved"));
  const auto one = byQueue_.find(cancelled.queue);
  if (one != byQueue_.end() && one->second.id == cancelled.consumer) letGo(one->second);
}

void QueueConsumers::ended(const amqp::ConsumerEnded& ended) {
  queue_.ended(ended.consumer);
  std::erase_if(byQueue_, [&](const auto& one) { return one.second.id == ended.consumer; });
  if (ended.replyCode == 0) return;
  try {
    amqp::throwEnded(ended);
  } catch (const Error& error) {
    failed(ended.queue, error);
  }
}

void QueueConsumers::failed(const std::string& queue, const Error& error) {
  isMissing_ = true;
  const auto [trouble, isNew] = troubles_.try_emplace(
      queue, Trouble{base::Reconnect("consumer '" + consumer_ + "', queue '" + queue + "'",
                                     options_.reconnectFirst, options_.reconnectMost)});
  trouble->second.outage.failed(error);
  trouble->second.notBefore = base::systemClock().boot() + trouble->second.outage.pause();
}

QueueNames QueueConsumers::consumed() const {
  QueueNames names;
  for (const auto& [queue, one] : byQueue_) names.insert(queue);
  return names;
}

std::optional<std::uint64_t> QueueConsumers::consumerOf(const std::string& queue) const {
  const auto one = byQueue_.find(queue);
  if (one == byQueue_.end() || one->second.letGoAt || !one->second.isOpen) return std::nullopt;
  return one->second.id;
}

bool QueueConsumers::anyOpening() const {
  return std::ranges::any_of(byQueue_, [](const auto& one) { return !one.second.isOpen; });
}

}  // namespace pillion::inbox
