/// Relay: moves committed events from the outbox to RabbitMQ.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <pillion/options.hpp>
#include <stop_token>
#include <string>
#include <vector>

namespace pillion {

/// What happens to an event that no queue takes.
enum class UnroutablePolicy {
  Park,  ///< it is kept until a queue is bound
  Drop,  ///< it is counted and forgotten: for events that are nothing when nobody listens
};

struct RelayOptions {
  DatabaseOptions database = {};
  BrokerOptions broker = {};

  /// Shown by `pillion status` beside the lanes this relay holds. Empty: host name and process id.
  std::string name = "";

  /// Unconfirmed events in flight, at most. 1,000 saturates one broker connection; more only adds
  /// memory and repeats after a crash.
  std::size_t windowEvents = 1'000;

  /// Unconfirmed payload bytes in flight, at most (one larger event travels alone).
  std::size_t windowBytes = 4U << 20;

  /// Rows and payload bytes read from the outbox at a time. Memory holds at most the window and two
  /// such pages. A read keeps the relay from refilling the window, so small pages are faster.
  std::size_t pageEvents = 500;
  std::size_t pageBytes = 8U << 20;

  /// Wait between two looks at an empty outbox: the first while events flowed within the last 100
  /// ms, down to half of it when they come so fast that at most four looks are made for each,
  /// growing to the second when idle. An empty look costs the database about 0.1 ms of CPU.
  std::chrono::milliseconds pollFirst{1};
  std::chrono::milliseconds pollMost{20};

  /// Sleep for up to `notifyPoll` when idle, and be woken by writers: saves the database the polls
  /// of outboxes that are mostly quiet. Needs the trigger of `select pillion.enable_notify()`
  /// (refused where transactions may be prepared; see docs/operating.md, "Sleeping relays"),
  /// which costs each writing statement some microseconds, and a commit that wakes a relay waits
  /// for PostgreSQL's one notification lock; so leave it off where events flow all the time. Needs
  /// a direct connection, no pooler in transaction mode.
  bool notify = false;
  std::chrono::milliseconds notifyPoll{2'000};

  /// Time between two checkpoints of the cursor while events flow. What was published since the
  /// last one is published again after a crash (and absorbed by the inbox). Shorter writes more row
  /// versions, which an old snapshot elsewhere keeps alive.
  std::chrono::milliseconds checkpointEvery{500};

  /// How long the lanes stay with a relay that no longer renews them, when its database session
  /// cannot be seen to have ended (a paused process, a cut network). A killed process is replaced
  /// at once. At least 3 s and three times `renewEvery`.
  std::chrono::milliseconds lease{15'000};
  std::chrono::milliseconds renewEvery{3'000};

  /// Hold an exclusive queue `pillion.fence.…` on the publishing connection. While a paused
  /// predecessor's connection lives, the broker then refuses the successor, so two relays never
  /// publish at the same time. Off only for brokers where the relay may not declare queues.
  bool fence = true;

  /// What a parked event means for the later events of its key. The same for all relays of an
  /// outbox. With Hold the relay remembers every key that has parked events (about 200 bytes each),
  /// and a key whose event the broker refuses for good waits until an operator discards it (deletes
  /// its row from the table `parked`, which is noticed within a second for each hundred such keys).
  ParkedPolicy parked = ParkedPolicy::Continue;

  /// Types of events that hold their key when they are parked, whatever `parked` says of the
  /// others: topic patterns (`*` one word, `#` any number of words), such as "order.#". All later
  /// events of the key wait, of whatever type.
  std::vector<std::string> holdTypes = {};

  /// Park, unless losing the event is right when nobody listens.
  UnroutablePolicy unroutable = UnroutablePolicy::Park;

  /// Published events are kept at least this long, for `pillion replay`, then emptied by TRUNCATE,
  /// a part of the ring at a time; so they are there up to twice as long, and at least an hour.
  /// When the ring's 29 million ids are used up sooner, space comes first.
  std::chrono::seconds retention{24 * 3'600};

  /// Wait before one event of a type that could not be published (no queue takes it, one is full
  /// or does not confirm, the topic is forbidden) is tried again: doubled from the first to the
  /// second. The others follow when it got through. Other types are not held up.
  std::chrono::milliseconds probeFirst{500};
  std::chrono::milliseconds probeMost{30'000};

  /// The same for a single event over which the broker closed the channel (larger than it takes).
  std::chrono::milliseconds refusedFirst{60'000};
  std::chrono::milliseconds refusedMost{3'600'000};
};

/// Counters since the relay was created; they never go back.
struct RelayStats {
  std::uint64_t published = 0;   ///< confirmed *and* routed by the broker
  std::uint64_t nacked = 0;      ///< refused by the broker for now, sent again
  std::uint64_t unroutable = 0;  ///< returned: no queue was bound; parked, or dropped
  std::uint64_t parked = 0;      ///< events moved to the parked ones, for whatever reason
  std::uint64_t dropped = 0;     ///< unroutable, and the policy is to drop them
  std::uint64_t expired = 0;     ///< past their `expiresAt`: dropped unsent
  std::uint64_t repeated = 0;    ///< sent again because a connection ended before the confirm
  std::uint64_t pages = 0;       ///< pages with at least one event
  std::uint64_t checkpoints = 0;
};

/// One relay: as a thread of the service (`start`, `stop`) or as a program's main loop (`run`; that
/// is what `pillion relay` does). Owns one connection to each server, both used by one thread only.
///
/// Several relays of one outbox share its 64 lanes; a key always has the same lane, so its events
/// are published by one relay at a time, in order. Relays that come get a fair share at the next
/// confirmed boundary; the lanes of one that is killed are taken over at once, those of one that is
/// paused or cut off after its lease. A second relay adds safety; one alone saturates a broker.
///
/// An event that cannot be published (no queue takes it, the broker refuses it, no message can be
/// made of it, or relays end over it again and again) is parked in the database and holds up
/// no other. A server that is away is no such failure: nothing is parked, the relay waits and says
/// why.
///
/// An event counts as published when the broker has confirmed and routed it; after a crash, what
/// was published since the last checkpoint is published again (at least once), in the same order
/// per key.
class Relay {
 public:
  /// Throws ConfigError for bad options. Connects to nothing.
  static std::unique_ptr<Relay> create(RelayOptions options = {});

  Relay(const Relay&) = delete;
  Relay& operator=(const Relay&) = delete;
  /// Stops as `stop()` does.
  ~Relay();

  /// Connects to both servers and starts the thread. A server that is away is waited for by the
  /// thread; what will not heal by itself (unknown host, wrong password, schema not migrated) is
  /// thrown here as ConfigError or SchemaError. The same errors later on are logged and retried.
  void start();

  /// Finishes the window in flight (at most 8 s), writes the last checkpoint, gives the lanes back
  /// and returns. Nothing is published twice because of it. A server that does not answer is given
  /// up: it returns within 15 s, and what was not checkpointed is published again by whoever is
  /// next. Safe to call twice, from any thread but the relay's own.
  void stop();

  /// The same loop on the calling thread until `stop` is requested. Throws as `start()` does.
  void run(std::stop_token stop);

  /// Something was committed: look now, not at the next poll. Any thread, async-signal-safe.
  void wake() noexcept;

  /// Any thread.
  [[nodiscard]] RelayStats stats() const;

 private:
  struct State;
  explicit Relay(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace pillion
