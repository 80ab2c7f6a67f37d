#include "inbox/subscription.hpp"

#include <poll.h>

#include <algorithm>
#include <pillion/error.hpp>
#include <utility>

#include "base/log_line.hpp"

namespace pillion::inbox {

using std::chrono::milliseconds;

namespace {

/// To connect, and then for all that a look does but for the last of its calls.
constexpr milliseconds kLookTimeout{2'000};
constexpr milliseconds kChangeAgain{1'000};
/// A lease that has run out is noticed after this.
constexpr milliseconds kLookAround{500};
/// Until the database was reached.
constexpr milliseconds kAwaitTopology{100};
/// While deliveries come without a pause.
constexpr milliseconds kFollow{50};
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
      change_(consumers_, queue),
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
  change_.note(now);
  if (topology_.partitions != now.partitions) {
    consumers_.limit(prefetchOfEach(prefetch_, now.partitions));
  }
  topology_.partitions = now.partitions;
  topology_.generation = now.generation;
  return true;
}

void Subscription::connect() {
  auto fresh = std::make_unique<amqp::Connection>(options_, "consumer " + topology_.queue, &wake_);
  declare(*fresh, base::Clock::Boot::max());
  fresh->beforeCalls({});
  connection_ = std::move(fresh);
  consumers_.connected(*connection_);
  nextBind_ = base::systemClock().boot() + bindEvery_;
  broker_.connected();
  follow();
}

void Subscription::disconnect() {
  consumers_.disconnected();
  connection_.reset();
  tell({});
}

/// Not on what was known when it began: others may have gone on while this one was held up.
void Subscription::declare(amqp::Connection& connection, base::Clock::Boot until) {
  connection.beforeCalls([this, until] {
    if (base::systemClock().boot() > until) throw BrokerError("RabbitMQ is slow to answer");
    if (topology_.partitions == 0 || change_.isNoted(holdings_.assignment())) return;
    throw BrokerError("how the partitions are shared has changed meanwhile");
  });
  if (options_.declareTopology) return change_.declare(connection, topology_);
  amqp::check(connection, topology_);  // nor can it be changed: bindings are not seen
}

void Subscription::tell(Consumption now) {
  if (topology_.partitions == 0) return;
  now.known = change_.known();
  holdings_.tell(std::move(now));
}

/// Consumes what is this instance's now, and says what is.
void Subscription::follow() {
  nextFollow_ = base::systemClock().boot() + kFollow;
  if (topology_.partitions == 0) return consumers_.follow({topology_.queue});
  noteTopology();
  const Assignment assignment = holdings_.assignment();
  QueueNames wanted = change_.retired(assignment);
  for (const int partition : assignment.wanted) {
    wanted.insert(topology_.partitionQueue(partition));
  }
  consumers_.follow(wanted);
  change_.noteDrained(topology_, assignment);
  change_.letGo();
  const QueueNames names = consumers_.consumed();
  Consumption now{.connected = true,
                  .generation = topology_.generation,
                  .bound = change_.bound(),
                  .empty = change_.drained()};
  for (int partition = 0; partition < topology_.partitions; ++partition) {
    if (names.contains(topology_.partitionQueue(partition))) now.consumed.insert(partition);
  }
  tell(std::move(now));
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
    if (topology_.partitions > 0 && change_.takeMarker(*delivery)) {
      return connection_->ack(*delivery);
    }
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
  if (!change_.needsLook() && base::systemClock().boot() < nextBind_) return;
  if (!noteTopology()) return;
  change_.takeLook();
  bool gotThrough = false;
  // Acks and heartbeats wait meanwhile: not for long, and where it fails not often.
  bindWait_ = std::min<std::chrono::milliseconds>(2 * bindWait_, kLongestBindWait);
  auto options = options_;
  options.connectTimeout = std::min(options.connectTimeout, kLookTimeout);
  try {
    amqp::Connection look(options, "consumer " + topology_.queue + ", bindings");
    const bool isThere = !options_.declareTopology || look.exchangeExists(topology_.exchange);
    declare(look, base::systemClock().boot() + kLookTimeout);
    if (!isThere) {
      base::log.warn(
          "consumer '{}': exchange '{}' was gone; it is declared and bound again, and what was"
          " published meanwhile may not have come here",
          topology_.queue, topology_.exchange);
    }
    if (options_.declareTopology && topology_.partitions > 0) {
      change_.look(look, topology_, holdings_.assignment());
    }
    look.close();
    bindWait_ = bindEvery_;
    gotThrough = true;
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
  // A change has many queues to declare, and is done when a look gets through.
  const bool isSoon = !gotThrough && change_.isUnderWay();
  nextBind_ = base::systemClock().boot() + (isSoon ? kChangeAgain : bindWait_);
}

void Subscription::pause(milliseconds limit, const std::stop_token& stop) {
  pollfd wake{wake_.fd(), POLLIN, 0};
  const auto end = base::systemClock().boot() + limit;
  while (!stop.stop_requested() && base::systemClock().boot() < end) {
    const auto left = std::chrono::ceil<milliseconds>(end - base::systemClock().boot());
    ::poll(&wake, 1, static_cast<int>(left.count()));
    wake_.take();
    if (topology_.partitions > 0 && noteTopology()) tell({});  // for a change need not wait
  }
}

}  // namespace pillion::inbox
