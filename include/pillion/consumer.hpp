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

/// How often a failing handler is tried, and how long it waits in between. The queue waits with it,
/// which is what keeps the order.
struct RetryPolicy {
  int maxAttempts = 10;                    ///< the last failure goes to the dead-letter queue
  std::chrono::milliseconds first{100};    ///< wait after the first failure
  double factor = 2.0;                     ///< each wait is this much longer
  std::chrono::milliseconds most{10'000};  ///< no wait is longer
};

struct ConsumerOptions {
  DatabaseOptions database = {};
  BrokerOptions broker = {};

  /// The queue is named `<service>.<subscription>`. Instances with the same name share it; give a
  /// second consumer of the same service a name of its own.
  std::string subscription = "events";

  /// The queue's whole name, in place of the rule above. 1 to 250 bytes.
  std::string queue = "";

  /// Deliveries the broker may send ahead of their acks. Higher hides the round trip to the broker,
  /// lower shares work more evenly among instances.
  std::uint16_t prefetch = 100;

  /// `x-delivery-limit` of the queue: after so many deliveries without an ack (each time the
  /// process died with the event in hand or waiting) the broker moves it to the dead-letter queue.
  int deliveryLimit = 100;

  RetryPolicy retry = {};

  /// How long an id is remembered. An event older than this can no longer be told from a duplicate:
  /// it is not applied but sent to the dead-letter queue as `outside-dedupe-window`. 1 to 20 days;
  /// must be longer than any outage you want to survive without redriving by hand.
  std::chrono::hours dedupeWindow{14 * 24};
};

/// Counters since the consumer was created; they never go back.
struct ConsumerStats {
  std::uint64_t delivered = 0;     ///< messages received, redeliveries included
  std::uint64_t applied = 0;       ///< handler's transaction committed
  std::uint64_t duplicates = 0;    ///< already in the inbox: acked, handler not called
  std::uint64_t ignored = 0;       ///< no handler for the type: acked
  std::uint64_t failed = 0;        ///< attempts that ended in an exception
  std::uint64_t deadLettered = 0;  ///< moved to `<queue>.dead` with a reason
};

/// Subscribes a service to events and applies each once.
///
/// What follows when a handler
/// - returns: its effects and the event's id commit together, then the ack;
/// - throws RejectEvent: rolled back; dead-letter queue, reason `rejected`;
/// - throws anything else: rolled back; again by RetryPolicy; then dead-letter queue, reason
///   `handler-failed`;
/// - aborts `tx` or swallows an SQL error: as if it had thrown;
/// - is not there for the type: acked and counted as ignored.
///
/// A message that is no valid event goes to the dead-letter queue with the reason, and the next is
/// handled. Either server away: the consumer waits, says so once, and goes on by itself.
///
/// Threads: one reads from the broker and keeps heartbeats, one runs the handlers in the order of
/// the queue. Handlers therefore run one at a time per consumer; start several instances (or
/// consumers) to share a queue, giving up order between them.
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
  /// pattern registered first). Call before `start()`; ConfigError afterwards.
  ///
  /// `tx` is a savepoint inside the transaction that records the event's id: whatever is written
  /// through it commits exactly if the id does. Do not keep it, or the event, beyond the call. The
  /// savepoint is what makes a handler that commits or aborts by itself harmless; it costs two
  /// local round trips.
  ///
  /// A handler without `tx` is for effects outside the database (a cache in memory, a log line):
  /// those happen at least once, since nothing can roll them back.
  template <typename F>
  void onEvent(std::string type, F handler) {
    if constexpr (std::invocable<F&, const Event&, Transaction&>) {
      addHandler(std::move(type), Handler(std::move(handler)));
    } else {
      static_assert(std::invocable<F&, const Event&>,
                    "a handler takes (const Event&) or (const Event&, pillion::Transaction&)");
      addHandler(std::move(type), [inner = std::move(handler)](
                                      const Event& event, Transaction&) mutable { inner(event); });
    }
  }

  /// Declares the topology, subscribes, and returns while the threads work. A server that is away
  /// is waited for in the background; what will not heal by itself (unknown host, wrong password,
  /// schema not migrated, a queue with other arguments) is thrown as ConfigError or SchemaError.
  void start();

  /// Takes no further deliveries, finishes the one in hand, acks it, and returns. What was
  /// prefetched goes back to the queue. Safe to call twice; not from a handler.
  void stop();

  /// Any thread.
  [[nodiscard]] ConsumerStats stats() const;

  /// Name of the queue, for operators and tests.
  [[nodiscard]] const std::string& queue() const;

 private:
  struct State;
  explicit EventConsumer(std::unique_ptr<State> state);
  void addHandler(std::string type, Handler handler);
  std::unique_ptr<State> state_;
};

}  // namespace pillion
