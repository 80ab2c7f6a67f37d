/// EventPublisher: turns an event into an outbox row, inside a transaction.
#pragma once

#include <functional>
#include <memory>
#include <pillion/event.hpp>
#include <pillion/options.hpp>
#include <pillion/transaction.hpp>
#include <span>
#include <string>

namespace pillion {

struct PublisherOptions {
  /// Where the outbox is. The URL is used only by `publish(event)`; the schema by every publish.
  DatabaseOptions database = {};

  /// Largest payload, in bytes; at most EventLimits::kPayload. Lower it to your broker's
  /// `max_message_size` when an operator has lowered that.
  std::size_t maxPayload = 16U << 20;

  /// Use named prepared statements on the caller's connection (a third less server time per event).
  /// Turn off behind a transaction pooler that does not support them (PgBouncer before 1.21), and
  /// with a pool that resets its sessions (DISCARD ALL, DEALLOCATE ALL). Left on there, at most two
  /// transactions fail with SQLSTATE 26000 on each connection that is in use at the time; then the
  /// publisher turns them off by itself, and logs that.
  bool preparedStatements = true;

  /// Asked for the current trace when an event carries none. Called on the publishing thread; must
  /// not throw. Empty: events without a trace stay without one.
  std::function<TraceContext()> traceContext = {};

  /// Called after `publish(event)` has committed: the place for `[&] { relay->wake(); }` when a
  /// Relay runs in the same process. After `publish(tx, …)` only the caller knows when the commit
  /// happened; call `relay->wake()` after `tx.commit()`.
  std::function<void()> onCommitted = {};
};

/// Writes events into the outbox of the database that the service's own tables live in.
///
/// Encodings: an event is UTF-8, whatever client_encoding the connection has. A database in another
/// encoding holds the characters that it has; others are an SQL error (22P05) that names them.
///
/// Threads: any number may use one publisher at a time. `publish(tx, …)` uses only the connection
/// of `tx`, which belongs to the calling thread; `publish(event)` takes turns on one connection.
class EventPublisher {
 public:
  /// `source` names this service in its events (CloudEvents `source`, AMQP `app_id`); 1 to 255
  /// bytes. Opens no connection. Throws ConfigError for bad options.
  static std::unique_ptr<EventPublisher> create(std::string source, PublisherOptions options = {});

  EventPublisher(const EventPublisher&) = delete;
  EventPublisher& operator=(const EventPublisher&) = delete;
  ~EventPublisher();

  /// Writes the event as a row of the caller's transaction: the event is published if and only if
  /// that transaction commits. Write it *after* the statement that locks the row which orders its
  /// key (the UPDATE or INSERT of the aggregate): that is what makes the order of events the order
  /// of changes.
  ///
  /// With libpqxx 6, a `pqxx::subtransaction` of your own begins with its first `exec()`, and
  /// `exec_params`, `exec_prepared` and this call run outside of it until then: begin one with
  /// `savepoint.exec("")` if it may be rolled back. (A handler is given one that has begun.)
  ///
  /// Throws InvalidEvent before any statement is sent, so the transaction is still usable. pqxx
  /// exceptions pass through; the transaction is then to be rolled back, as after any SQL error.
  /// Retry the whole transaction with the same Event object and the id stays the same.
  void publish(Transaction& tx, const Event& event) const;

  /// The same for many events, in few round trips (multi-row inserts of 64, 16, 4 and 1 rows).
  /// All are checked before the first is written. Events of one key keep the order of the span.
  void publish(Transaction& tx, std::span<const Event> events) const;

  /// Writes the event in a short transaction of its own, on a connection that the publisher opens
  /// when first needed and opens again when it was lost.
  ///
  /// Promises: when it returns, the event is committed and will be published. Does *not* promise
  /// anything about your other writes: a crash between your commit and this call loses the event.
  /// Use it for events that no row of yours belongs to.
  ///
  /// Throws InvalidEvent, ConfigError, SchemaError (not migrated) or DatabaseError. When
  /// `outcomeInDoubt()` is true, call again with the same Event: at worst it travels twice and is
  /// applied once.
  void publish(const Event& event) const;

 private:
  struct State;
  explicit EventPublisher(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace pillion
