#include <pillion/consumer.hpp>

#include <algorithm>
#include <atomic>
#include <pillion/error.hpp>
#include <thread>

#include "amqp/broker_check.hpp"
#include "base/environment.hpp"
#include "base/log_line.hpp"
#include "base/thread_safety.hpp"
#include "inbox/consumer_parts.hpp"
#include "inbox/consumer_run.hpp"
#include "postgres/connection.hpp"
#include "postgres/identifier.hpp"

namespace pillion {
namespace {

/// 255 bytes of a name, less the longest ending that is put to it: `.dead`, or `.partitions`.
constexpr std::size_t kQueueName = 250;
constexpr std::size_t kPartitionedQueueName = 244;
/// A query that was cancelled ends at once, and with it most handlers.
constexpr std::chrono::milliseconds kAfterCancel{1'000};
/// For the last acks and a good-bye to the broker, also when the workers took all the time there
/// was.
constexpr std::chrono::milliseconds kGoodBye{2'500};

void require(bool holds, const std::string& problem) {
  if (!holds) throw ConfigError(problem);
}

std::string listed(const std::vector<std::string>& patterns) {
  std::string text;
  for (const std::string& pattern : patterns) text += (text.empty() ? "'" : ", '") + pattern + "'";
  return text;
}

void validate(const RetryPolicy& retry) {
  require(retry.maxAttempts > 0, "consumer option retry.maxAttempts must be above zero");
  require(retry.first > std::chrono::milliseconds(0),
          "consumer option retry.first must be above zero");
  require(retry.most >= retry.first, "consumer option retry.most must not be below retry.first");
  require(retry.factor >= 1, "consumer option retry.factor must be 1 or more");
  require(retry.jitter >= 0 && retry.jitter <= 1,
          "consumer option retry.jitter must be from 0 to 1");
}

void validate(const std::string& queue, const std::vector<std::string>& patterns,
              const ConsumerOptions& options) {
  amqp::requireValid(options.broker);
  validate(options.retry);
  const std::size_t most = options.partitions > 0 ? kPartitionedQueueName : kQueueName;
  require(!queue.empty() && queue.size() <= most, "queue name of " + std::to_string(queue.size()) +
                                                      " bytes: 1 to " + std::to_string(most) +
                                                      " are needed");
  require(!patterns.empty(), "consumer '" + queue + "' has no topic pattern to subscribe to");
  for (const std::string& pattern : patterns) {
    require(!pattern.empty() && pattern.size() <= EventLimits::kShortString,
            "topic pattern of " + std::to_string(pattern.size()) + " bytes: 1 to 255 are needed");
  }
  require(options.prefetch > 0, "consumer option prefetch must be above zero");
  require(options.prefetchWait > std::chrono::milliseconds(0),
          "consumer option prefetchWait must be above zero");
  require(options.deliveryLimit > 0, "consumer option deliveryLimit must be above zero");
  require(
      options.workers > 0 && options.workers <= 1'000,
      "consumer option workers is " + std::to_string(options.workers) + "; 1 to 1000 are possible");
  require(options.batchEvents > 0, "consumer option batchEvents must be above zero");
  require(options.partitions >= 0 && options.partitions <= amqp::kLanes,
          "consumer option partitions is " + std::to_string(options.partitions) +
              "; 0 to 64 are possible");
  require(options.slowHandler > std::chrono::milliseconds(0),
          "consumer option slowHandler must be above zero");
  require(options.bindEvery > std::chrono::milliseconds(0),
          "consumer option bindEvery must be above zero");
  require(options.stopTimeout > std::chrono::milliseconds(0),
          "consumer option stopTimeout must be above zero");
  const auto days = std::chrono::duration_cast<std::chrono::days>(options.dedupeWindow);
  require(days >= std::chrono::days(1) && options.dedupeWindow <= std::chrono::days(20),
          "consumer option dedupeWindow is " + std::to_string(options.dedupeWindow.count()) +
              " hours; 24 to 480 are possible");
}

}  // namespace

/// Shared with its threads, since one that a handler never returns to is left behind by stop().
struct EventConsumer::State : inbox::ConsumerParts,
                              std::enable_shared_from_this<EventConsumer::State> {
  inbox::Counters counters;

  base::Mutex mutex;  // held for as long as start() and stop() take
  std::shared_ptr<inbox::ConsumerRun> run PILLION_GUARDED_BY(mutex);
  std::vector<std::jthread> workerThreads PILLION_GUARDED_BY(mutex);
  std::jthread brokerThread PILLION_GUARDED_BY(mutex);
  std::jthread memberThread PILLION_GUARDED_BY(mutex);
  std::jthread letterThread PILLION_GUARDED_BY(mutex);

  base::Mutex watchMutex;  // for stats(), which waits for neither
  std::shared_ptr<const inbox::HandlerWatch> watch PILLION_GUARDED_BY(watchMutex);

  void setWatch(std::shared_ptr<const inbox::HandlerWatch> now) {
    const base::MutexLock lock(watchMutex);
    watch = std::move(now);
  }

  /// Each thread owns what it uses: also the handlers, options and counters, in the state.
  void startThreads() PILLION_REQUIRES(mutex) {
    for (std::size_t i = 0; i < run->workers.size(); ++i) {
      workerThreads.emplace_back(
          [self = shared_from_this(), mine = run, i](const std::stop_token& stop) mutable {
            mine->workers[i]->serve(stop);
          });
    }
    brokerThread =
        std::jthread([self = shared_from_this(), mine = run](const std::stop_token& stop) {
          const std::stop_callback wakeUp(stop, [&mine] { mine->wake.signal(); });
          mine->subscription.serve(stop);
          mine->brokerEnded = true;
        });
    letterThread = std::jthread([self = shared_from_this(), mine = run](
                                    const std::stop_token& stop) { mine->letters.serve(stop); });
    if (!run->member) return;
    memberThread = std::jthread([self = shared_from_this(), mine = run](
                                    const std::stop_token& stop) { mine->member->serve(stop); });
  }

  /// The workers first: the broker's thread still has to send the acks of what they finish. The
  /// partitions last, when nothing is consumed any more.
  void stopThreads() PILLION_REQUIRES(mutex) {
    const auto end = base::systemClock().boot() + options.stopTimeout;
    stopWorkers(end);
    letterThread.request_stop();
    const auto last =
        std::max<std::chrono::nanoseconds>(end, base::systemClock().boot() + kGoodBye);
    stopBroker(last);
    stopLetters(last);
    if (run->member) stopMember(last);
  }

  void stopMember(base::Clock::Boot end) PILLION_REQUIRES(mutex) {
    memberThread.request_stop();
    if (await(end, [&member = *run->member] { return member.ended(); })) {
      memberThread.join();
      return;
    }
    memberThread.detach();  // the others wait for its lease
  }

  void stopWorkers(base::Clock::Boot end) PILLION_REQUIRES(mutex) {
    for (auto& thread : workerThreads) thread.request_stop();
    const auto ended = [&workers = run->workers] {
      return std::ranges::all_of(workers, [](const auto& one) { return one->ended(); });
    };
    if (!await(end, ended)) {
      run->watch.abandon();
      cancelQueries();
      if (!await(base::systemClock().boot() + kAfterCancel, ended)) leaveWorkersBehind();
    }
    workerThreads.clear();  // joins those that are not left behind
  }

  /// Without waiting: PostgreSQL's client waits for the answer to a cancel request, and a server
  /// that hangs gives none.
  void cancelQueries() PILLION_REQUIRES(mutex) {
    for (std::size_t i = 0; i < run->workers.size(); ++i) {
      if (run->workers[i]->ended()) continue;
      std::thread([self = shared_from_this(), mine = run, i] {
        mine->workers[i]->cancelQuery();
      }).detach();
    }
  }

  void leaveWorkersBehind() PILLION_REQUIRES(mutex) {
    for (std::size_t i = 0; i < workerThreads.size(); ++i) {
      if (!run->workers[i]->ended()) workerThreads[i].detach();
    }
    if (const auto hanging = run->watch.oldest()) {
      base::log.error(
          "consumer '{}' stops while a handler still runs: event {} ({}); it is delivered again",
          topology.queue, hanging->eventId, hanging->type);
      return;
    }
    base::log.error(
        "consumer '{}' stops while a worker still waits for a server; what it has in hand is "
        "delivered again",
        topology.queue);
  }

  /// A broker that hangs holds up a login, an ack or a good-bye; each of them gives up by itself,
  /// but only after its own time.
  void stopBroker(base::Clock::Boot end) PILLION_REQUIRES(mutex) {
    brokerThread.request_stop();
    if (await(end, [&ended = run->brokerEnded] { return ended.load(); })) {
      brokerThread.join();
      return;
    }
    brokerThread.detach();
    base::log.error("consumer '{}' stops without a good-bye, RabbitMQ does not answer",
                    topology.queue);
  }

  /// What it has in hand is sent again.
  void stopLetters(base::Clock::Boot end) PILLION_REQUIRES(mutex) {
    if (await(end, [&letters = run->letters] { return letters.ended(); })) {
      letterThread.join();
    } else {
      letterThread.detach();
    }
  }

  template <typename Condition>
  [[nodiscard]] static bool await(base::Clock::Boot end, Condition condition) {
    while (!condition()) {
      if (base::systemClock().boot() > end) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    return true;
  }
};

EventConsumer::EventConsumer(std::shared_ptr<State> state) : state_(std::move(state)) {}

EventConsumer::~EventConsumer() {
  stop();
}

std::unique_ptr<EventConsumer> EventConsumer::create(std::string service,
                                                     std::vector<std::string> patterns,
                                                     ConsumerOptions options) {
  require(!service.empty() || !options.queue.empty(), "a consumer needs the name of its service");
  const std::string queue =
      options.queue.empty() ? std::move(service) + "." + options.subscription : options.queue;
  validate(queue, patterns, options);
  postgres::quoteIdentifier(postgres::schemaOf(options.database));
  auto state = std::make_shared<State>();
  state->topology.exchange =
      base::configured(options.broker.exchange, "PILLION_EXCHANGE", "pillion.events");
  state->topology.queue = queue;
  state->topology.patterns = std::move(patterns);
  state->topology.deliveryLimit = options.deliveryLimit;
  state->topology.partitions = options.partitions;
  state->options = std::move(options);
  return std::unique_ptr<EventConsumer>(new EventConsumer(std::move(state)));
}

std::unique_ptr<EventConsumer> EventConsumer::create(std::string service,
                                                     std::vector<std::string> patterns) {
  return create(std::move(service), std::move(patterns), ConsumerOptions{});
}

void EventConsumer::addHandler(std::string type, Handler handler, bool usesTransaction) {
  const base::MutexLock lock(state_->mutex);
  require(!state_->run, "onEvent('" + type + "') comes after start()");
  state_->handlers.add(std::move(type), std::move(handler), usesTransaction);
}

void EventConsumer::start() {
  State& state = *state_;
  const base::MutexLock lock(state.mutex);
  if (state.run) return;
  const std::string unreachable = state.handlers.unreachable(state.topology.patterns);
  // Without it the bindings are the operator's, and not known here.
  require(unreachable.empty() || !state.options.broker.declareTopology,
          "consumer '" + state.topology.queue + "' has a handler for '" + unreachable +
              "', which none of its topic patterns brings: " + listed(state.topology.patterns));
  auto run = std::make_shared<inbox::ConsumerRun>(state, state.counters);
  run->open();
  state.setWatch({run, &run->watch});
  state.run = std::move(run);
  state.startThreads();
  base::log.info("consumer '{}' is subscribed to '{}'", state.topology.queue,
                 state.topology.exchange);
}

void EventConsumer::stop() {
  State& state = *state_;
  const base::MutexLock lock(state.mutex);
  if (!state.run) return;
  state.stopThreads();
  state.setWatch(nullptr);
  state.run.reset();
}

ConsumerStats EventConsumer::stats() const {
  const inbox::Counters& counters = state_->counters;
  ConsumerStats stats;
  stats.delivered = counters.delivered;
  stats.applied = counters.applied;
  stats.duplicates = counters.duplicates;
  stats.ignored = counters.ignored;
  stats.failed = counters.failed;
  stats.parked = counters.parked;
  stats.held = counters.held;
  stats.discarded = counters.discarded;
  stats.deadLettered = counters.deadLettered;
  const base::MutexLock lock(state_->watchMutex);
  if (state_->watch) stats.longestRunning = state_->watch->longest();
  return stats;
}

const inbox::ConsumerParts& EventConsumer::parts() const {
  return *state_;
}

const std::string& EventConsumer::queue() const {
  return state_->topology.queue;
}

}  // namespace pillion
