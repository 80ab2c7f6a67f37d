/// For a service's own tests: run its handlers against a real database without a broker, and see
/// what was published. Not for production; nothing in Pillion uses it.
///
/// What is tested is what runs: the same decoding, claim, savepoint and commit as in an
/// EventConsumer, on the schema that `Migrator` made. Everything here is for one thread.
#pragma once

#include <memory>
#include <pillion/consumer.hpp>
#include <pillion/event.hpp>
#include <pillion/options.hpp>
#include <string>
#include <vector>

namespace pillion::testing {

/// What became of an event that was delivered.
enum class Outcome {
  Applied,    ///< effects and id committed together
  Duplicate,  ///< the id was there already: the handler was not called
  Ignored,    ///< no handler for the type
  Failed,     ///< the handler threw: everything rolled back. A consumer would park it and try again
  Rejected,   ///< it threw RejectEvent: rolled back. A consumer would send it to the dead letters
  Invalid,    ///< consumers take no such event; see `error`
};

struct Delivered {
  Outcome outcome = Outcome::Applied;
  std::string error;  ///< what the handler threw, as the log and the dead letter would show it
};

/// Hands events to the handlers of a consumer that was created and has its handlers, as in
/// production, but was not started:
///
///     auto consumer = pillion::EventConsumer::create("inventory-service", {"product.*"}, options);
///     registerHandlers(*consumer);
///     pillion::testing::HandlerDriver driver(*consumer);
///     CHECK(driver.deliver(event).outcome == Outcome::Applied);
///     CHECK(driver.deliver(event).outcome == Outcome::Duplicate);  // delivered twice, applied
///     once
class HandlerDriver {
 public:
  /// Connects to the consumer's database. The consumer must live as long. Throws ConfigError,
  /// SchemaError or DatabaseError.
  explicit HandlerDriver(const EventConsumer& consumer);
  ~HandlerDriver();
  HandlerDriver(const HandlerDriver&) = delete;
  HandlerDriver& operator=(const HandlerDriver&) = delete;

  /// One delivery, in a transaction of its own, with nothing before or after it. The event goes
  /// through its form on the wire and back. An event without a source gets "test". Throws
  /// DatabaseError when the database is away.
  Delivered deliver(const Event& event);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Reads what is published, in place of a relay:
///
///     pillion::testing::OutboxDrain outbox(options);
///     service.placeOrder(…);
///     const auto events = outbox.take();
///     REQUIRE(events.size() == 1);
///     CHECK(events[0].type() == "order.placed");
class OutboxDrain {
 public:
  /// Begins at what is committed from now on. Throws ConfigError, SchemaError or DatabaseError.
  explicit OutboxDrain(const DatabaseOptions& options = {});
  ~OutboxDrain();
  OutboxDrain(const OutboxDrain&) = delete;
  OutboxDrain& operator=(const OutboxDrain&) = delete;

  /// The events that were committed since the last call, in the order in which a relay would
  /// publish them. Nothing is removed: a relay publishes them all the same. Those with `deliverAt`
  /// enter the outbox when a relay runs and they are due, not before. Throws Error when there are
  /// more than 10,000.
  std::vector<Event> take();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace pillion::testing
