#include "inbox/subscription.hpp"

#include <poll.h>
#include <spdlog/spdlog.h>

#include <pillion/error.hpp>
#include <pillion/log.hpp>
#include <utility>

namespace pillion::inbox {

using std::chrono::milliseconds;

namespace {

constexpr milliseconds kSettled{1'000};

}  // namespace

Subscription::Subscription(const BrokerOptions& options, amqp::ConsumerTopology topology,
                           std::uint16_t prefetch, DeliveryQueue& queue, base::WakeEvent& wake,
                           Counters& counters)
    : options_(options),
      topology_(std::move(topology)),
      prefetch_(prefetch),
      queue_(queue),
      wake_(wake),
      counters_(counters),
      outage_("consumer '" + topology_.queue + "'"),
      backoff_(options.reconnectFirst, options.reconnectMost) {}

void Subscription::open() {
  try {
    connect();
  } catch (const Error& error) {
    connection_.reset();
    if (!error.retryable()) throw;
    outage_.began(error);
  }
}

void Subscription::connect() {
  auto fresh = std::make_unique<amqp::Connection>(options_, "consumer " + topology_.queue, &wake_);
  if (options_.declareTopology) {
    amqp::declare(*fresh, topology_);
  } else {
    amqp::check(*fresh, topology_);
  }
  queue_.newChannel();
  fresh->consume(topology_.queue, prefetch_);
  connection_ = std::move(fresh);
  connectedAt_ = base::systemClock().boot();
}

/// A connection that breaks at once is no recovery: it must neither end the outage nor shorten the
/// wait before the next attempt.
void Subscription::settle(bool gotSomething) {
  if (!connectedAt_) return;
  if (!gotSomething && base::systemClock().boot() - *connectedAt_ < kSettled) return;
  connectedAt_.reset();
  outage_.ended();
  backoff_.reset();
}

void Subscription::serve(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    try {
      if (!connection_) connect();
      pump(stop);
      return;
    } catch (const Error& error) {
      outage_.began(error);
    } catch (const std::exception& error) {
      logger()->error("consumer '{}' connects again after: {}", topology_.queue, error.what());
    }
    connection_.reset();
    pause(backoff_.next(), stop);
  }
}

void Subscription::pump(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    if (auto incoming = connection_->receive(milliseconds(1'000))) {
      settle(std::holds_alternative<amqp::Delivery>(*incoming));
      handle(std::move(*incoming));
    }
    settle(false);
    sendAcks();
  }
  sendAcks();
  connection_->cancelConsumer();
  connection_->close();  // what was prefetched goes back to the queue
  connection_.reset();
}

void Subscription::handle(amqp::Incoming incoming) {
  if (auto* delivery = std::get_if<amqp::Delivery>(&incoming)) {
    ++counters_.delivered;
    queue_.push(std::move(*delivery));
  } else if (std::holds_alternative<amqp::ConsumerCancelled>(incoming)) {
    throw BrokerError("RabbitMQ cancelled the consumer: the queue was deleted or moved");
  }
}

void Subscription::sendAcks() {
  wake_.take();
  for (const std::uint64_t tag : queue_.takeAcks()) connection_->ack(tag);
}

void Subscription::pause(milliseconds limit, const std::stop_token& stop) {
  pollfd wake{wake_.fd(), POLLIN, 0};
  const auto end = base::systemClock().boot() + limit;
  while (!stop.stop_requested() && base::systemClock().boot() < end) {
    const auto left = std::chrono::ceil<milliseconds>(end - base::systemClock().boot());
    ::poll(&wake, 1, static_cast<int>(left.count()));
    wake_.take();
  }
}

}  // namespace pillion::inbox
