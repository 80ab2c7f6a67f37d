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
/// A lease that has run out is noticed after this.
constexpr milliseconds kLookAround{500};
/// While deliveries come without a pause.
constexpr milliseconds kFollow{50};
constexpr milliseconds kDrainLook{500};
constexpr std::size_t kMostBytes = 32U << 20;
constexpr std::chrono::minutes kLongestBindWait{10};

/// What is bounded for all queues, shared among those that there may be.
PrefetchPlan::Limits prefetchOfEach(const ConsumerOptions& options) {
  const int queues = std::max(1, options.partitions);
  return {.wanted = static_cast<std::uint16_t>(std::max(1, options.prefetch / queues)),
          .workers = static_cast<std::size_t>(options.workers),
          .bytes = kMostBytes / static_cast<std::size_t>(queues),
          .longestWait = options.prefetchWait};
}

}  // namespace

Subscription::Subscription(const BrokerOptions& options, amqp::ConsumerTopology topology,
                           const ConsumerOptions& consumer, DeliveryQueue& queue,
                           Holdings& holdings, base::WakeEvent& wake, Counters& counters,
                           HandlerWatch& watch)
    : options_(options),
      topology_(std::move(topology)),
      slowHandler_(consumer.slowHandler),
      bindEvery_(consumer.bindEvery),
      bindWait_(consumer.bindEvery),
      queue_(queue),
      holdings_(holdings),
      wake_(wake),
      counters_(counters),
      watch_(watch),
      consumers_(topology_.queue, options, prefetchOfEach(consumer), queue),
      broker_("consumer '" + topology_.queue + "'", options.reconnectFirst, options.reconnectMost) {
}

void Subscription::open() {
  if (!noteTopology()) return;
  try {
    connect();
  } catch (const Error& error) {
    connection_.reset();
    if (!error.retryable()) throw;
    broker_.failed(error);
  }
}

void Subscription::settle() {
  if (!connection_) return;
  try {
    const auto end = base::systemClock().boot() + options_.connectTimeout;
    follow();
    while (consumers_.anyOpening() && base::systemClock().boot() < end) {
      auto incoming = connection_->receive(milliseconds(100));
      if (!incoming) continue;
      const auto* ended = std::get_if<amqp::ConsumerEnded>(&*incoming);
      if (ended != nullptr && ended->replyCode != 0) amqp::throwEnded(*ended);
      handle(std::move(*incoming));
    }
  } catch (const Error& error) {
    if (!error.retryable()) throw;
    disconnect();
    broker_.failed(error);
  }
}

/// How many partitions there are is known from the database, for as long as that can be reached:
/// one that declares what was right some time ago would bind queues that nobody consumes any more.
bool Subscription::noteTopology() {
  if (topology_.partitions == 0) return true;
  const Assignment now = holdings_.assignment();
  if (now.generation == 0 || !now.isCurrent) return false;
  if (bound_ > 0 && now.generation != topology_.generation) {
    retired_ = topology_;
    drainWatch_.forget();
    drained_.clear();
  }
  if (now.next != std::exchange(next_, now.next)) nextBind_ = base::Clock::Boot{0};
  topology_.partitions = now.partitions;
  topology_.generation = now.generation;
  return true;
}

void Subscription::connect() {
  auto fresh = std::make_unique<amqp::Connection>(options_, "consumer " + topology_.queue, &wake_);
  declare(*fresh);
  connection_ = std::move(fresh);
  consumers_.connected(*connection_);
  nextBind_ = base::systemClock().boot() + bindEvery_;
  broker_.connected();
  follow();
}

void Subscription::disconnect() {
  consumers_.disconnected();
  connection_.reset();
  if (topology_.partitions > 0) holdings_.tell({});
}

void Subscription::declare(amqp::Connection& connection) {
  if (!options_.declareTopology) {
    amqp::check(connection, topology_);  // nor can it be changed: bindings are not seen
  } else if (next_ > 0) {
    amqp::ConsumerTopology next = topology_;
    next.partitions = next_;
    ++next.generation;
    amqp::declareChange(connection, topology_, next);
    bound_ = next.generation;
    return;
  } else {
    amqp::declare(connection, topology_);
  }
  bound_ = topology_.generation;
}

/// Those of the present queues that have nothing left, while they are worked off.
Partitions Subscription::drained(const Assignment& now) {
  if (!now.draining || base::systemClock().boot() < nextDrainLook_) return drained_;
  nextDrainLook_ = base::systemClock().boot() + kDrainLook;
  for (const int partition : now.wanted) {
    const std::string queue = topology_.partitionQueue(partition);
    const auto consumer = consumers_.consumerOf(queue);
    if (!consumer || drained_.contains(partition)) continue;
    const auto ready = connection_->messageCount(queue);
    const Load load = queue_.loadOf(*consumer);
    const bool isEmpty = ready.value_or(0) == 0 && load.open == 0;
    if (drainWatch_.isDrained(queue, load.received, isEmpty)) drained_.insert(partition);
  }
  return drained_;
}

/// Consumes what is this instance's now, and says what is.
void Subscription::follow() {
  nextFollow_ = base::systemClock().boot() + kFollow;
  if (topology_.partitions == 0) return consumers_.follow({topology_.queue});
  noteTopology();
  const Assignment assignment = holdings_.assignment();
  QueueNames wanted;
  for (const int partition : assignment.wanted) {
    wanted.insert(topology_.partitionQueue(partition));
  }
  consumers_.follow(wanted);
  const QueueNames names = consumers_.consumed();
  Consumption now{.connected = true,
                  .generation = topology_.generation,
                  .bound = bound_,
                  .empty = drained(assignment)};
  for (int partition = 0; partition < topology_.partitions; ++partition) {
    if (names.contains(topology_.partitionQueue(partition))) now.consumed.insert(partition);
  }
  holdings_.tell(std::move(now));
}

void Subscription::serve(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    try {
      if (!connection_ && noteTopology()) connect();
      if (connection_) {
        pump(stop);
        return;
      }
    } catch (const Error& error) {
      broker_.failed(error);
    } catch (const std::exception& error) {
      base::log.error("consumer '{}' connects again after: {}", topology_.queue, error.what());
    }
    disconnect();
    pause(broker_.pause(), stop);
  }
}

void Subscription::pump(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    auto incoming = connection_->receive(kLookAround);
    const bool isDelivery = incoming && std::holds_alternative<amqp::Delivery>(*incoming);
    broker_.holds(isDelivery);
    if (incoming) handle(std::move(*incoming));
    sendAcks();
    if (!isDelivery || base::systemClock().boot() >= nextFollow_) follow();
    reportSlowHandlers();
    lookAfterBindings();
  }
  // Without ending the consumers first: the end of the connection gives everything back before
  // anybody else gets anything.
  sendAcks();
  connection_->close();
  disconnect();
}

void Subscription::handle(amqp::Incoming incoming) {
  if (auto* delivery = std::get_if<amqp::Delivery>(&incoming)) {
    ++counters_.delivered;
    if (consumers_.isTooMuch(queue_.push(std::move(*delivery)))) nextFollow_ = base::Clock::Boot{0};
  } else if (const auto* opened = std::get_if<amqp::ConsumerOpened>(&incoming)) {
    consumers_.opened(*opened);
  } else if (const auto* cancelled = std::get_if<amqp::ConsumerCancelled>(&incoming)) {
    consumers_.cancelled(*cancelled);
  } else if (const auto* ended = std::get_if<amqp::ConsumerEnded>(&incoming)) {
    consumers_.ended(*ended);
  }
  if (consumers_.takeMissing()) nextBind_ = base::Clock::Boot{0};  // it may have to be declared
}

void Subscription::sendAcks() {
  wake_.take();
  for (const auto& [consumer, tag, multiple] : queue_.takeAcks()) {
    connection_->ack(consumer, tag, multiple);
  }
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
  if (base::systemClock().boot() < nextBind_ || !noteTopology()) return;
  // Acks and heartbeats wait meanwhile: not for long, and where it fails not often.
  bindWait_ = std::min<std::chrono::milliseconds>(2 * bindWait_, kLongestBindWait);
  auto options = options_;
  options.connectTimeout = std::min(options.connectTimeout, kLookTimeout);
  try {
    amqp::Connection look(options, "consumer " + topology_.queue + ", bindings");
    const bool isThere = !options_.declareTopology || look.exchangeExists(topology_.exchange);
    declare(look);
    if (!isThere) {
      base::log.warn(
          "consumer '{}': exchange '{}' was gone; it is declared and bound again, and what was"
          " published meanwhile may not have come here",
          topology_.queue, topology_.exchange);
    }
    removeRetired(look);
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

/// After a change of partitions, when no other instance consumes from them any more either.
void Subscription::removeRetired(amqp::Connection& look) {
  if (!retired_ || !options_.declareTopology) return;
  bool all = true;
  for (const std::string& queue : retired_->queues()) {
    if (look.deleteUnused(queue) || !look.queueExists(queue)) continue;
    all = false;
    if (!told_.mayTell(queue)) continue;
    base::log.info("consumer '{}': queue '{}' of before the change is still in use",
                   retired_->queue, queue);
  }
  if (all) retired_.reset();
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
