/// EventConsumer: runs handlers, each in the transaction that also remembers the event's id.
#pragma once

#include <chrono>
#include <concepts>
#include <cstdint>
#include <functional>
#include <memory>
#include <pillion/event.hpp>
#include <pillion/options.hpp>
#include <pillion/transaction.hpp>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace pillion {

namespace inbox {
struct ConsumerParts;
}
namespace testing {
class HandlerDriver;
}

/// How often a failing handler is tried, and how long it waits in between. The event waits in the
/// service's own database (it is *parked*), not in the queue: events of other keys go on.
///
/// The defaults are 1, 2, 4, … 256 seconds, each up to a third shorter: eight minutes in all.
struct RetryPolicy {
  int maxAttempts = 10;                     ///< after the last one: dead-letter queue
  std::chrono::milliseconds first{1'000};   ///< wait after the first failure
  double factor = 2.0;                      ///< each wait is this much longer; 1 or more
  std::chrono::milliseconds most{300'000};  ///< no wait is longer
  double jitter = 0.33;  ///< each wait is shortened by up to this part of it, at random; 0 to 1
};

/// What happens to an event that is older than the dedupe window (or made further ahead than a
/// day): it may have been applied and forgotten since.
enum class OutsideWindowPolicy {
  DeadLetter,  ///< not applied; dead-letter queue, reason `outside-dedupe-window`
  Apply,       ///< applied: for effects that may happen twice
  Discard,     ///< acked and counted: for effects that nobody misses after so long
};

/// What happens to an event for whose type this instance has no handler.
enum class UnhandledPolicy {
  /// It is left to an instance that has one: parked in the service's database, later events of its
  /// key behind it (see `ConsumerOptions::parked`). When no instance has had one for an hour it
  /// goes to the dead-letter queue, reason `no-handler`. So instances of two versions can run side
  /// by side while a service is replaced, whatever is new or gone in one of them.
  DeadLetter,
  Ignore,  ///< acked and counted: for a subscription that is wider than the handlers on purpose
};

struct ConsumerOptions {
  DatabaseOptions database = {};
  BrokerOptions broker = {};

  /// The queue is named `<service>.<subscription>`. Instances with the same name share it; give a
  /// second consumer of the same service a name of its own.
  std::string subscription = "events";

  /// The queue's whole name, in place of the rule above. 1 to 250 bytes, with partitions 244.
  std::string queue = "";

  /// Threads that run handlers, each with a database connection of its own. Events of one key never
  /// run at the same time or out of order; events without a key, and of different keys, do. Raise
  /// it when handlers wait (for locks, for other services); 1 keeps the order of the whole queue.
  int workers = 1;

  /// Events handled in one transaction, at most. Only what is at hand is taken, nobody waits for a
  /// batch to fill; handlers that take long get smaller batches (about a tenth of a second of
  /// work; one that takes over a second is rolled back and handled again in parts). 1: a
  /// transaction per event, which costs most of the throughput and gains nothing but shorter locks.
  int batchEvents = 100;

  /// Deliveries the broker may send ahead of their acks, with partitions shared among these. Below
  /// three batches per worker, workers wait for the broker; higher shares work less evenly among
  /// instances. Less by itself when they take more than 24 MiB, or wait for a worker for longer
  /// than `prefetchWait`; up to sixteen times as many while all of them wait for keys that are held
  /// up (a handler that hangs), and workers have nothing to do. Each such change is a line in the
  /// log.
  std::uint16_t prefetch = 300;

  /// What has waited for a worker for so long goes back to the queue, which counts as a delivery,
  /// and less is prefetched: RabbitMQ takes a channel's deliveries away after its
  /// `consumer_timeout`, 30 minutes, and would move healthy events to the dead-letter queue when
  /// that happens again and again. Above 0; leave it alone unless that limit is lower than ten
  /// minutes.
  std::chrono::milliseconds prefetchWait{60'000};

  /// Not 0: the ordered form for several instances. The subscription gets so many queues,
  /// `<queue>.p0`, `<queue>.p1`, …; each key belongs to one of them, and each is consumed by one
  /// instance at a time. The instances share them evenly, by leases in the database, and each moves
  /// at a boundary when one comes or goes. Several for each instance that you will ever run, since
  /// they are moved whole; 1 to 64. Counts for a consumer that is new: to change it see group.hpp.
  /// Needs events from a Pillion relay; others all go to `p0`. 0: one queue that instances share,
  /// which keeps no order among them.
  int partitions = 0;

  /// `x-delivery-limit` of the queue: after so many deliveries without an ack the broker moves the
  /// event to the dead-letter queue. It counts each time that the process died or lost its
  /// connection with the event in hand or prefetched; up to RabbitMQ 4.2 clean stops too. So leave
  /// it generous.
  int deliveryLimit = 100;

  RetryPolicy retry = {};

  /// What a parked event means for the later events of its key. Here order comes first by default:
  /// they are parked behind it, and follow when it was applied or given up.
  /// With `Continue` they go on, and one of them may even run at the same time as the parked one.
  ParkedPolicy parked = ParkedPolicy::Hold;

  /// How long an id is remembered: 1 to 20 days. Must be longer than any outage you want to survive
  /// without deciding by hand; the consumer warns when an event comes near it.
  std::chrono::hours dedupeWindow{14 * 24};
  OutsideWindowPolicy outsideWindow = OutsideWindowPolicy::DeadLetter;

  /// Types without a handler are named in the log once an hour, with either policy.
  UnhandledPolicy unhandled = UnhandledPolicy::DeadLetter;

  /// A handler that runs for longer than this is named in the log, once. Nothing interrupts it.
  /// After RabbitMQ's `consumer_timeout` (30 minutes) the broker closes the channel: the consumer
  /// connects again, the event is delivered again, and waits for the handler, which runs on.
  std::chrono::milliseconds slowHandler{30'000};

  /// How often exchange, queues and bindings are looked after, over a short connection of its own:
  /// who deletes an exchange deletes its bindings, and a consumer without them is connected and
  /// gets nothing. What is missing is made again; without `BrokerOptions::declareTopology` it is
  /// only looked for, and named in the log. Above 0; what is published between the loss and the
  /// look is not this consumer's.
  std::chrono::milliseconds bindEvery{30'000};

  /// `stop()` returns within this and three seconds, also when a server hangs. A handler that still
  /// runs then is left behind: its query is cancelled, its transaction rolled back when it returns,
  /// and its event delivered again, which counts as no attempt. Left behind, too, is a thread that
  /// waits for a server: it ends by itself when that answers, or gives up by its own limit.
  std::chrono::milliseconds stopTimeout{30'000};
};

/// Counters since the consumer was created; they never go back.
struct ConsumerStats {
  std::uint64_t delivered = 0;   ///< messages received, redeliveries included
  std::uint64_t applied = 0;     ///< handler's transaction committed
  std::uint64_t duplicates = 0;  ///< already in the inbox: acked, handler not called
  std::uint64_t ignored = 0;     ///< no handler for the type, and `UnhandledPolicy::Ignore`
  std::uint64_t failed = 0;      ///< attempts that ended in an exception
  std::uint64_t parked = 0;  ///< events parked after their first failure, or for want of a handler
  std::uint64_t held = 0;    ///< events parked behind one of their key
  std::uint64_t discarded = 0;     ///< outside the dedupe window, by OutsideWindowPolicy::Discard
  std::uint64_t deadLettered = 0;  ///< given up with a reason: in `<queue>.dead`, or on their way
  /// How long the handler has run that has run longest; 0 when none is running.
  std::chrono::milliseconds longestRunning{0};
};

/// Subscribes a service to events and applies each once.
///
/// What follows when a handler
/// - returns: its effects and the event's id commit together, then the ack;
/// - throws RejectEvent: rolled back; dead-letter queue, reason `rejected`;
/// - throws anything else: rolled back; parked, and tried again by RetryPolicy; then dead-letter
///   queue, reason `handler-failed`;
/// - aborts `tx` or swallows an SQL error: as if it had thrown;
/// - is not there for the type: see UnhandledPolicy.
///
/// Events at hand share a transaction. When one of them fails, that transaction is rolled back and
/// the others are handled again without it: a handler may run more than once for one event, its
/// effects through `tx` happen once. A deadlock or a serialization failure is tried again at once,
/// three times. Transactions are READ COMMITTED, whatever the role's default is.
///
/// An event is known by its id *and* source (CloudEvents 1.0, "id"): another producer's id, forged
/// or equal by accident, is another event.
///
/// While a handler runs, what it publishes on this thread follows from its event: an EventPublisher
/// fills in causation id, correlation id (the event's own, else its id) and trace where they are
/// empty.
///
/// What goes to the dead-letter queue is written into the database first, and holds up nothing
/// while that queue takes none. A message that is no valid event goes there with the reason. Either
/// server away: the consumer waits, says so once, and goes on by itself.
///
/// Threads: one reads from the broker and keeps heartbeats, `workers` run the handlers, one sends
/// dead letters. Several
/// instances may share a queue, giving up order between them; `partitions` keeps it.
class EventConsumer {
 public:
  using Handler = std::function<void(const Event&, Transaction&)>;

  /// `service` names the consuming service; `patterns` are AMQP topic patterns (`*` one word, `#`
  /// any number of words). Throws ConfigError for bad options. Connects to nothing.
  ///
  /// An event counts as published once *one* queue has it: what is published before a service's
  /// queue was first declared never reaches that service. Start consumers once before the first
  /// event.
  static std::unique_ptr<EventConsumer> create(std::string service,
                                               std::vector<std::string> patterns,
                                               ConsumerOptions options);
  /// With default options.
  static std::unique_ptr<EventConsumer> create(std::string service,
                                               std::vector<std::string> patterns);

  EventConsumer(const EventConsumer&) = delete;
  EventConsumer& operator=(const EventConsumer&) = delete;
  /// Stops as `stop()` does.
  ~EventConsumer();

  /// Handles events of this type (an exact type, or a topic pattern; the exact one wins, then the
  /// pattern registered first). Call before `start()`; ConfigError afterwards. `start()` refuses a
  /// handler that none of the consumer's topic patterns can bring an event to.
  ///
  /// `tx` is a savepoint inside the transaction that records the event's id: whatever is written
  /// through it commits exactly if the id does. Do not keep it, or the event, beyond the call. The
  /// savepoint is what makes a handler that commits or aborts by itself harmless. `COMMIT` or
  /// `ROLLBACK` as SQL text make its event fail: never send them. Other handlers' events may share
  /// the transaction, but what a handler changes besides rows (settings, the role, temporary
  /// tables, advisory locks of the session) is put back before the next one. With `workers` above
  /// 1, handlers are called by several threads at a time.
  ///
  /// A handler without `tx` is for effects outside the database (a cache in memory, a log line):
  /// those happen at least once, since nothing can roll them back. It never shares a transaction
  /// with one that has `tx`, so it may wait over a connection of its own for what they lock.
  template <typename F>
  void onEvent(std::string type, F handler) {
    if constexpr (std::invocable<F&, const Event&, Transaction&>) {
      addHandler(std::move(type), Handler(std::move(handler)), /*usesTransaction=*/true);
    } else {
      static_assert(std::invocable<F&, const Event&>,
                    "a handler takes (const Event&) or (const Event&, pillion::Transaction&)");
      addHandler(
          std::move(type),
          [inner = std::move(handler)](const Event& event, Transaction&) mutable { inner(event); },
          /*usesTransaction=*/false);
    }
  }

  /// Declares the topology, subscribes, and returns while the threads work. A server that is away
  /// is waited for in the background; what will not heal by itself (unknown host, wrong password,
  /// schema not migrated, a queue with other arguments) is thrown as ConfigError or SchemaError.
  void start();

  /// Takes no further deliveries, finishes the batches in hand, acks them, and returns, at the
  /// latest about `stopTimeout` later. What was prefetched goes back to the queue. Safe to call
  /// twice; not from a handler.
  void stop();

  /// Any thread.
  [[nodiscard]] ConsumerStats stats() const;

  /// Name of the queue, for operators and tests.
  [[nodiscard]] const std::string& queue() const;

 private:
  struct State;
  explicit EventConsumer(std::shared_ptr<State> state);
  void addHandler(std::string type, Handler handler, bool usesTransaction);
  friend class testing::HandlerDriver;
  [[nodiscard]] const inbox::ConsumerParts& parts() const;
  std::shared_ptr<State> state_;
};

}  // namespace pillion
