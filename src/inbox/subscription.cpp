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
/// Until the database was reached.
constexpr milliseconds kAwaitTopology{100};
/// While deliveries come without a pause.
constexpr milliseconds kFollow{50};
/// An instance that was slow may have bound them once more.
constexpr std::chrono::hours kRetiredLook{1};
constexpr std::size_t kMostBytes = 24U << 20;
constexpr std::chrono::minutes kLongestBindWait{10};

PrefetchPlan::Limits prefetchOfAll(const ConsumerOptions& options) {
  return {.wanted = options.prefetch,
          .workers = static_cast<std::size_t>(options.workers),
          .bytes = kMostBytes,
          .longestWait = options.prefetchWait};
}

/// What is bounded for all queues, shared among those that there may be.
PrefetchPlan::Limits prefetchOfEach(PrefetchPlan::Limits limits, int partitions) {
  const int queues = std::max(1, partitions);
  limits.wanted = static_cast<std::uint16_t>(std::max(1, limits.wanted / queues));
  limits.bytes /= static_cast<std::size_t>(queues);
  return limits;
}

}  // namespace

Subscription::Subscription(const BrokerOptions& options, amqp::ConsumerTopology topology,
                           const ConsumerOptions& consumer, DeliveryQueue& queue,
                           Holdings& holdings, const InboxName& inboxName, base::WakeEvent& wake,
                           Counters& counters, HandlerWatch& watch)
    : options_(options),
      topology_(std::move(topology)),
      slowHandler_(consumer.slowHandler),
      bindEvery_(consumer.bindEvery),
      bindWait_(consumer.bindEvery),
      queue_(queue),
      holdings_(holdings),
      inboxName_(inboxName),
      wake_(wake),
      counters_(counters),
      watch_(watch),
      prefetch_(prefetchOfAll(consumer)),
      consumers_(topology_.queue, options, prefetchOfEach(prefetch_, topology_.partitions), queue),
      broker_("consumer '" + topology_.queue + "'", options.reconnectFirst, options.reconnectMost) {
}

void Subscription::open() {
  if (!noteTopology()) return;
  try {
    connect();
  } catch (const Error& error) {
    disconnect();
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

/// Whose queue it is, and how many partitions there are, is known from the database, and the latter
/// for as long as that can be reached: one that declares what was right some time ago would bind
/// queues that nobody consumes any more.
bool Subscription::noteTopology() {
  if (topology_.inbox.empty()) topology_.inbox = inboxName_.get();
  if (topology_.inbox.empty()) return false;
  if (topology_.partitions == 0) return true;
  const Assignment now = holdings_.assignment();
  if (now.generation == 0 || !now.isCurrent) return false;
  if (bound_ > 0 && now.generation != topology_.generation) {
    drained_.clear();
    nextBind_ = nextRetiredLook_ = base::Clock::Boot{0};
  }
  if (now.next != std::exchange(next_, now.next)) nextBind_ = base::Clock::Boot{0};
  if (topology_.partitions != now.partitions) {
    consumers_.limit(prefetchOfEach(prefetch_, now.partitions));
  }
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

bool Subscription::isWorkedOff(const std::string& queue) {
  const auto consumer = consumers_.consumerOf(queue);
  if (!consumer) return false;
  if (const auto marker = markers_.next(queue, *consumer)) connection_->publish(*marker);
  return markers_.cameBack(*consumer) && queue_.loadOf(*consumer).open == 0;
}

void Subscription::noteDrained(const Assignment& now) {
  if (!now.draining) return;
  for (const int partition : now.wanted) {
    if (drained_.contains(partition)) continue;
    if (isWorkedOff(topology_.partitionQueue(partition))) drained_.insert(partition);
  }
}

/// Nothing should be left in them; whatever is all the same is no less than an event.
void Subscription::noteRetired() {
  for (const std::string& queue : QueueNames(retired_)) {
    if (!isWorkedOff(queue)) continue;
    retired_.erase(queue);
    worn_.insert(queue);
    nextBind_ = base::Clock::Boot{0};
  }
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
  const bool isFirst = assignment.wanted.contains(0);  // somebody has to see to what is left behind
  if (!isFirst) retired_.clear();
  wanted.insert(retired_.begin(), retired_.end());
  consumers_.follow(wanted);
  noteDrained(assignment);
  noteRetired();
  const QueueNames names = consumers_.consumed();
  Consumption now{
      .connected = true, .generation = topology_.generation, .bound = bound_, .empty = drained_};
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
    pause(noteTopology() ? broker_.pause() : kAwaitTopology, stop);
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
    if (topology_.partitions > 0 && markers_.take(*delivery)) return connection_->ack(*delivery);
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
  consumers_.sendAcks();
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
    if (options_.declareTopology && topology_.partitions > 0) lookForRetired(look);
    look.close();
    bindWait_ = bindEvery_;
  } catch (const amqp::WrongInbox&) {
    throw;  // somebody has adopted it: nothing more is to be taken
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

/// After a change of partitions, by the instance that has the first one.
void Subscription::lookForRetired(amqp::Connection& look) {
  for (const std::string& queue : std::exchange(worn_, {})) look.deleteQueue(queue);
  const auto now = base::systemClock().boot();
  const bool isMine = next_ == 0 && holdings_.assignment().wanted.contains(0);
  if (!isMine || topology_.generation == 1 || now < nextRetiredLook_) return;
  for (const std::string& queue : amqp::unbindRetired(look, topology_)) retired_.insert(queue);
  nextRetiredLook_ = now + kRetiredLook;
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
