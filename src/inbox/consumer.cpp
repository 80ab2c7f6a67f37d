#include <pillion/consumer.hpp>

#include <spdlog/spdlog.h>

#include <mutex>
#include <pillion/error.hpp>
#include <pillion/log.hpp>
#include <thread>

#include "amqp/broker_check.hpp"
#include "base/environment.hpp"
#include "inbox/delivery_queue.hpp"
#include "inbox/handler_table.hpp"
#include "inbox/subscription.hpp"
#include "inbox/worker.hpp"
#include "postgres/connection.hpp"
#include "postgres/identifier.hpp"

namespace pillion {
namespace {

/// 255 bytes of a queue's name, less the ending of its dead-letter queue.
constexpr std::size_t kQueueName = 250;

void require(bool holds, const std::string& problem) {
  if (!holds) throw ConfigError(problem);
}

void validate(const std::string& queue, const std::vector<std::string>& patterns,
              const ConsumerOptions& options) {
  amqp::requireValid(options.broker);
  require(options.retry.first > std::chrono::milliseconds(0),
          "consumer option retry.first must be above zero");
  require(!queue.empty() && queue.size() <= kQueueName,
          "queue name of " + std::to_string(queue.size()) + " bytes: 1 to 250 are needed");
  require(!patterns.empty(), "consumer '" + queue + "' has no topic pattern to subscribe to");
  for (const std::string& pattern : patterns) {
    require(!pattern.empty() && pattern.size() <= EventLimits::kShortString,
            "topic pattern of " + std::to_string(pattern.size()) + " bytes: 1 to 255 are needed");
  }
  require(options.prefetch > 0, "consumer option prefetch must be above zero");
  require(options.deliveryLimit > 0, "consumer option deliveryLimit must be above zero");
  require(options.retry.maxAttempts > 0, "consumer option retry.maxAttempts must be above zero");
  const auto days = std::chrono::duration_cast<std::chrono::days>(options.dedupeWindow);
  require(days >= std::chrono::days(1) && options.dedupeWindow <= std::chrono::days(20),
          "consumer option dedupeWindow is " + std::to_string(options.dedupeWindow.count()) +
              " hours; 24 to 480 are possible");
}

}  // namespace

struct EventConsumer::State {
  ConsumerOptions options;
  amqp::ConsumerTopology topology;
  inbox::HandlerTable handlers;
  inbox::Counters counters;
  base::WakeEvent wake;
  inbox::DeliveryQueue queue{wake};

  std::mutex mutex;  // start and stop
  std::unique_ptr<inbox::Worker> worker;
  std::unique_ptr<inbox::Subscription> subscription;
  std::jthread workerThread;
  std::jthread brokerThread;
  bool started = false;

  void startThreads() {
    workerThread = std::jthread([this](const std::stop_token& stop) { worker->serve(stop); });
    brokerThread = std::jthread([this](const std::stop_token& stop) {
      const std::stop_callback wakeUp(stop, [this] { wake.signal(); });
      subscription->serve(stop);
    });
  }
};

EventConsumer::EventConsumer(std::unique_ptr<State> state) : state_(std::move(state)) {}

EventConsumer::~EventConsumer() {
  stop();
}

std::unique_ptr<EventConsumer> EventConsumer::create(std::string service,
                                                     std::vector<std::string> patterns,
                                                     ConsumerOptions options) {
  require(!service.empty() || !options.queue.empty(), "a consumer needs the name of its service");
  const std::string queue =
      options.queue.empty() ? service + "." + options.subscription : options.queue;
  validate(queue, patterns, options);
  postgres::quoteIdentifier(postgres::schemaOf(options.database));
  auto state = std::make_unique<State>();
  state->topology.exchange =
      base::configured(options.broker.exchange, "PILLION_EXCHANGE", "pillion.events");
  state->topology.queue = queue;
  state->topology.patterns = std::move(patterns);
  state->topology.deliveryLimit = options.deliveryLimit;
  state->options = std::move(options);
  return std::unique_ptr<EventConsumer>(new EventConsumer(std::move(state)));
}

std::unique_ptr<EventConsumer> EventConsumer::create(std::string service,
                                                     std::vector<std::string> patterns) {
  return create(std::move(service), std::move(patterns), ConsumerOptions{});
}

void EventConsumer::addHandler(std::string type, Handler handler) {
  const std::scoped_lock lock(state_->mutex);
  require(!state_->started, "onEvent('" + type + "') comes after start()");
  state_->handlers.add(std::move(type), std::move(handler));
}

void EventConsumer::start() {
  State& state = *state_;
  const std::scoped_lock lock(state.mutex);
  if (state.started) return;
  state.worker = std::make_unique<inbox::Worker>(state.options, state.topology.queue,
                                                 state.handlers, state.queue, state.counters);
  state.subscription = std::make_unique<inbox::Subscription>(state.options.broker, state.topology,
                                                             state.options.prefetch, state.queue,
                                                             state.wake, state.counters);
  state.worker->open();
  state.subscription->open();
  state.startThreads();
  state.started = true;
  logger()->info("consumer '{}' is subscribed to '{}'", state.topology.queue,
                 state.topology.exchange);
}

void EventConsumer::stop() {
  State& state = *state_;
  const std::scoped_lock lock(state.mutex);
  if (!state.started) return;
  // The worker first: the broker's thread still has to send the ack of what it finishes.
  state.workerThread.request_stop();
  state.workerThread.join();
  state.brokerThread.request_stop();
  state.brokerThread.join();
  state.worker.reset();
  state.subscription.reset();
  state.started = false;
}

ConsumerStats EventConsumer::stats() const {
  const inbox::Counters& counters = state_->counters;
  ConsumerStats stats;
  stats.delivered = counters.delivered;
  stats.applied = counters.applied;
  stats.duplicates = counters.duplicates;
  stats.ignored = counters.ignored;
  stats.failed = counters.failed;
  stats.deadLettered = counters.deadLettered;
  return stats;
}

const std::string& EventConsumer::queue() const {
  return state_->topology.queue;
}

}  // namespace pillion
