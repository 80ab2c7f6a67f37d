#include "inbox/subscription.hpp"

#include <poll.h>
#include <algorithm>
#include <pillion/error.hpp>
#include <utility>

#include "base/log_line.hpp"

namespace pillion::inbox {

using std::chrono::milliseconds;

namespace {

constexpr milliseconds kLookTimeout{2'000};
constexpr std::chrono::minutes kLongestBindWait{10};

/// RabbitMQ counts a prefetch for each consumer of a channel by itself.
std::uint16_t prefetchOfEach(const ConsumerOptions& options) {
  const int queues = std::max(1, options.partitions);
  return static_cast<std::uint16_t>(std::max(1, options.prefetch / queues));
}

}  // namespace

Subscription::Subscription(const BrokerOptions& options, amqp::ConsumerTopology topology,
                           const ConsumerOptions& consumer, DeliveryQueue& queue,
                           base::WakeEvent& wake, Counters& counters, HandlerWatch& watch)
    : options_(options),
      topology_(std::move(topology)),
      prefetch_(prefetchOfEach(consumer)),
      slowHandler_(consumer.slowHandler),
      bindEvery_(consumer.bindEvery),
      bindWait_(consumer.bindEvery),
      queue_(queue),
      wake_(wake),
      counters_(counters),
      watch_(watch),
      broker_("consumer '" + topology_.queue + "'", options.reconnectFirst, options.reconnectMost) {
}

void Subscription::open() {
  try {
    connect();
  } catch (const Error& error) {
    connection_.reset();
    if (!error.retryable()) throw;
    broker_.failed(error);
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
  for (const std::string& queue : topology_.queues()) fresh->consume(queue, prefetch_);
  connection_ = std::move(fresh);
  nextBind_ = base::systemClock().boot() + bindEvery_;
  broker_.connected();
}

void Subscription::serve(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    try {
      if (!connection_) connect();
      pump(stop);
      return;
    } catch (const Error& error) {
      broker_.failed(error);
    } catch (const std::exception& error) {
      base::log.error("consumer '{}' connects again after: {}", topology_.queue, error.what());
    }
    connection_.reset();
    pause(broker_.pause(), stop);
  }
}

void Subscription::pump(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    if (auto incoming = connection_->receive(milliseconds(1'000))) {
      broker_.holds(std::holds_alternative<amqp::Delivery>(*incoming));
      handle(std::move(*incoming));
    }
    broker_.holds(false);
    sendAcks();
    reportSlowHandlers();
    lookAfterBindings();
  }
  // Without cancelling the consumers first: a cancelled one keeps what it was sent, and where it
  // was the single active one the next consumer gets what comes behind that at once. The end of the
  // connection gives everything back before anybody else gets anything.
  sendAcks();
  connection_->close();
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
  for (const auto& [tag, multiple] : queue_.takeAcks()) connection_->ack(tag, multiple);
}

void Subscription::reportSlowHandlers() {
  while (const auto slow = watch_.overdue(slowHandler_)) {
    base::log.warn("consumer '{}': the handler of event {} ({}) has been running for over {} ms",
                   topology_.queue, slow->eventId, slow->type, slowHandler_.count());
  }
}

/// Over another connection, since a refusal ends the channel, and with it all that was prefetched.
/// AMQP shows an exchange, and no binding: those are made again each time.
void Subscription::lookAfterBindings() {
  if (base::systemClock().boot() < nextBind_) return;
  // Acks and heartbeats wait meanwhile: not for long, and where it fails not often.
  bindWait_ = std::min<std::chrono::milliseconds>(2 * bindWait_, kLongestBindWait);
  auto options = options_;
  options.connectTimeout = std::min(options.connectTimeout, kLookTimeout);
  try {
    amqp::Connection look(options, "consumer " + topology_.queue + ", bindings");
    if (!options_.declareTopology) {
      amqp::check(look, topology_);
    } else {
      const bool isThere = look.exchangeExists(topology_.exchange);
      amqp::declare(look, topology_);
      if (!isThere) {
        base::log.warn(
            "consumer '{}': exchange '{}' was gone; it is declared and bound again, and what was"
            " published meanwhile may not have come here",
            topology_.queue, topology_.exchange);
      }
    }
    look.close();
    bindWait_ = bindEvery_;
  } catch (const ConfigError& error) {
    if (told_.mayTell("bindings")) {
      base::log.warn("consumer '{}' could not look after its bindings: {}", topology_.queue,
                     error.what());
    }
  } catch (const Error& error) {  // its own connection will notice, if that is to last
    base::log.debug("consumer '{}' could not look after its bindings: {}", topology_.queue,
                    error.what());
  }
  nextBind_ = base::systemClock().boot() + bindWait_;
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
