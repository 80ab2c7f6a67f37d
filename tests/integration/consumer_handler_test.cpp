// What handlers may do to the transaction they are given, and what becomes of the event.
#include <pillion/testing.hpp>
#include <utility>

#include "consumer_fixture.hpp"

namespace pillion::test {
namespace {

using HandlerBody = std::function<void(const Event&, Transaction&)>;

/// One consumer whose handler writes the journal and then does what the test is about.
struct Scene {
  explicit Scene(const std::string& service, HandlerBody body) {
    consumer = EventConsumer::create(service, {"#"}, world.consumerOptions());
    consumer->onEvent("#", [body = std::move(body)](const Event& event, Transaction& tx) {
      writeJournal(event, tx);
      body(event, tx);
    });
  }

  /// Sends one event and waits until its queue is empty.
  void handleOne() {
    consumer->start();
    sent = numberedEvents(1)[0];
    send(world.exchange, *sent);
    awaitEmptyQueue();
  }

  void awaitEmptyQueue() const {
    REQUIRE(eventually(20s, [&] { return Servers::mq().queueDepth(consumer->queue()) == 0; }));
    REQUIRE(eventually(20s, [&] { return world.parked() == 0; }));
  }

  /// Neither effect nor inbox row, and a dead letter with this reason, error and attempts.
  void checkDeadLettered(const std::string& reason, const std::string& error,
                         const std::string& attempts) const {
    CHECK(world.journal() == 0);
    CHECK(world.inbox() == 0);
    CHECK(consumer->stats().applied == 0);
    CHECK(consumer->stats().deadLettered == 1);
    const auto letters = readDeadLetters(consumer->queue(), 1);
    REQUIRE(letters.size() == 1);
    CHECK(letters[0].messageId == sent->id());
    CHECK(letters[0].body == sent->bytes());
    CHECK(header(letters[0], "pillion-dead-reason") == reason);
    CHECK(header(letters[0], "pillion-dead-error").find(error) != std::string::npos);
    CHECK(header(letters[0], "pillion-dead-attempts") == attempts);
    CHECK(header(letters[0], "pillion-dead-exchange") == world.exchange);
    CHECK(header(letters[0], "pillion-dead-routing-key") == "order.placed");
    CHECK(header(letters[0], "pillion-dead-at").size() >= 20);
  }

  /// One effect and one inbox row, nothing dead.
  void checkApplied() const {
    CHECK(world.journal() == 1);
    CHECK(world.inbox() == 1);
    CHECK(consumer->stats().applied == 1);
    CHECK(consumer->stats().deadLettered == 0);
    CHECK(Servers::mq().queueDepth(consumer->queue() + ".dead") == 0);
  }

  World world;
  std::unique_ptr<EventConsumer> consumer;
  std::optional<Event> sent;
};

}  // namespace

TEST_CASE("a handler that commits by itself has its effect once, with the event's id") {
  Scene scene("commits", [](const Event&, Transaction& tx) { tx.commit(); });
  scene.handleOne();
  scene.checkApplied();
}

TEST_CASE("a handler that commits and then throws leaves neither effect nor id") {
  Scene scene("commits-throws", [](const Event&, Transaction& tx) {
    tx.commit();
    throw std::runtime_error("after the commit");
  });
  scene.handleOne();
  scene.checkDeadLettered("handler-failed", "after the commit", "3");
  CHECK(scene.consumer->stats().failed == 3);
}

TEST_CASE("a handler that commits and then writes on has all its effects with the id, or none") {
  // libpqxx 6 lets it write on, in the transaction that is still open; libpqxx 7 refuses.
  Scene scene("commits-writes", [](const Event& event, Transaction& tx) {
    tx.commit();
    writeJournal(event, tx, "second");
  });
  scene.handleOne();
  CHECK(scene.world.journal() == 2 * scene.world.inbox());
  const auto stats = scene.consumer->stats();
  CHECK(stats.applied + stats.deadLettered == 1);
  CHECK(stats.applied == static_cast<std::uint64_t>(scene.world.inbox()));
}

TEST_CASE("a handler that commits, writes on and throws leaves neither effect nor id") {
  Scene scene("commits-writes-throws", [](const Event& event, Transaction& tx) {
    tx.commit();
    writeJournal(event, tx, "second");
    throw std::runtime_error("after all");
  });
  scene.handleOne();
  scene.checkDeadLettered("handler-failed", "", "3");
}

TEST_CASE("a handler that aborts and then writes on leaves neither effect nor id") {
  Scene scene("aborts-writes", [](const Event& event, Transaction& tx) {
    tx.abort();
    writeJournal(event, tx, "second");
  });
  scene.handleOne();
  scene.checkDeadLettered("handler-failed", "", "3");
}

TEST_CASE("a handler that aborts leaves neither effect nor id") {
  Scene scene("aborts", [](const Event&, Transaction& tx) { tx.abort(); });
  scene.handleOne();
  scene.checkDeadLettered("handler-failed", "", "3");
}

TEST_CASE("a handler that swallows an SQL error leaves neither effect nor id") {
  Scene scene("swallows", [](const Event&, Transaction& tx) {
    try {
      tx.exec("select 1 / 0");
    } catch (const std::exception&) {  // as if all were well
    }
  });
  scene.handleOne();
  scene.checkDeadLettered("handler-failed", "", "3");
}

namespace {

/// Hides the failure of a statement; libpqxx 6 does not notice it either.
void hideError(Transaction& tx) {
  try {
    tx.exec_params("select 1 / $1::int", 0);
  } catch (const std::exception&) {  // as if all were well
  }
}

}  // namespace

TEST_CASE("a handler that hides an SQL error from libpqxx leaves neither effect nor id") {
  Scene scene("hides", [](const Event&, Transaction& tx) { hideError(tx); });
  scene.handleOne();
  scene.checkDeadLettered("handler-failed", "", "3");
}

TEST_CASE("a handler that commits and then hides an SQL error does not lose its event") {
  // libpqxx 6 runs the statement, libpqxx 7 refuses to.
  Scene scene("commits-hides", [](const Event&, Transaction& tx) {
    tx.commit();
    hideError(tx);
  });
  scene.handleOne();
  const auto stats = scene.consumer->stats();
  CHECK(stats.applied + stats.deadLettered == 1);
  CHECK(scene.world.journal() == static_cast<long>(stats.applied));
  CHECK(scene.world.inbox() == static_cast<long>(stats.applied));
}

TEST_CASE("a handler that ends the transaction by a text does not lose its event") {
  for (const std::string text : {"rollback", "rollback; begin", "rollback; begin; savepoint a"}) {
    CAPTURE(text);
    Scene scene("ends", [text](const Event&, Transaction& tx) { tx.exec(text); });
    scene.handleOne();
    scene.checkDeadLettered("handler-failed", "", "3");
  }
}

TEST_CASE("a handler that rolls an SQL error back to a savepoint of its own is applied") {
  Scene scene("careful", [](const Event&, Transaction& tx) {
    try {
      pqxx::subtransaction inner{tx, "inner"};
      inner.exec("select 1 / 0");
    } catch (const pqxx::sql_error&) {  // rolled back by the savepoint
    }
  });
  scene.handleOne();
  scene.checkApplied();
}

TEST_CASE("a handler that throws is tried three times and then its event is dead-lettered") {
  Scene scene("throws", [](const Event&, Transaction&) { throw std::logic_error("no stock"); });
  scene.handleOne();
  scene.checkDeadLettered("handler-failed", "no stock", "3");
  CHECK(scene.consumer->stats().failed == 3);
  CHECK(scene.consumer->stats().delivered == 1);
}

TEST_CASE("a handler that throws something that is no std::exception is a failure like others") {
  Scene scene("throws-int", [](const Event&, Transaction&) { throw 42; });
  scene.handleOne();
  scene.checkDeadLettered("handler-failed", "no std::exception", "3");
}

TEST_CASE("a text that is no UTF-8 is the error of an event like any other") {
  Scene throws("mumbles", [](const Event&, Transaction&) {
    throw std::runtime_error("unknown product \xe9, " + std::string(5'000, 'x') + "\nand more");
  });
  throws.handleOne();
  throws.checkDeadLettered("handler-failed", R"(unknown product \xe9, xxx)", "3");
  Scene rejects("mumbles-no",
                [](const Event&, Transaction&) { throw RejectEvent("unknown product \xe9"); });
  rejects.handleOne();
  rejects.checkDeadLettered("rejected", R"(unknown product \xe9)", "1");
}

TEST_CASE("RejectEvent sends the event to the dead-letter queue at the first attempt") {
  Scene scene("rejects", [](const Event&, Transaction&) { throw RejectEvent("wrong warehouse"); });
  scene.handleOne();
  scene.checkDeadLettered("rejected", "wrong warehouse", "1");
}

TEST_CASE("a handler that fails twice and then succeeds has its effect once") {
  int calls = 0;
  Scene scene("recovers", [&calls](const Event&, Transaction&) {
    if (++calls < 3) throw std::runtime_error("not yet");
  });
  scene.handleOne();
  scene.checkApplied();
  CHECK(scene.consumer->stats().failed == 2);
}

TEST_CASE("a deferred constraint that fails at COMMIT leaves neither effect nor id") {
  Scene scene("defers", [](const Event&, Transaction& tx) {
    tx.exec("insert into unique_later values ('CANARY-VALUE'), ('CANARY-VALUE')");
  });
  scene.world.database.execute(
      "create table unique_later (value text unique deferrable initially deferred)");
  const LogCapture log;
  scene.handleOne();
  CHECK(scene.world.database.count("select count(*) from unique_later") == 0);
  CHECK(log.count("CANARY-VALUE") == 0);  // row values are nobody's business
  scene.checkDeadLettered("handler-failed", "unique_later", "3");
}

TEST_CASE("row values of an SQL error reach neither the log nor the dead letter") {
  Scene scene("discreet", [](const Event&, Transaction& tx) {
    tx.exec("insert into unique_now values ('CANARY-VALUE'), ('CANARY-VALUE')");
  });
  scene.world.database.execute("create table unique_now (value text unique)");
  const LogCapture log;
  scene.handleOne();
  CHECK(log.count("unique_now") >= 1);
  CHECK(log.count("CANARY-VALUE") == 0);
  const auto letters = readDeadLetters(scene.consumer->queue(), 1);
  REQUIRE(letters.size() == 1);
  CHECK(header(letters[0], "pillion-dead-error").find("CANARY-VALUE") == std::string::npos);
}

TEST_CASE("a handler without a transaction is called once per applied event") {
  const World world;
  std::atomic<int> calls{0};
  const auto consumer = EventConsumer::create("memory", {"#"}, world.consumerOptions());
  consumer->onEvent("#", [&calls](const Event&) { ++calls; });
  consumer->start();
  const Event event = numberedEvents(1)[0];
  send(world.exchange, std::vector<Event>{event, event});
  CHECK(eventually(20s, [&] { return consumer->stats().duplicates == 1; }));
  CHECK(calls == 1);
  CHECK(world.inbox() == 1);
}

TEST_CASE("an event that fails holds up those behind it, so that the order stays") {
  const World world;
  int calls = 0;
  auto options = world.consumerOptions();
  options.retry.maxAttempts = 5;
  const auto consumer = EventConsumer::create("patient-order", {"#"}, options);
  consumer->onEvent("#", [&calls](const Event& event, Transaction& tx) {
    writeJournal(event, tx);
    if (event.data().at("number") == 2 && ++calls < 4) throw std::runtime_error("not yet");
  });
  consumer->start();
  send(world.exchange, numberedEvents(5));
  CHECK(eventually(20s, [&] { return world.journal() == 5; }));
  CHECK(world.database.query("select string_agg(number::text, ' ' order by position) "
                             "from journal") == "1 2 3 4 5");
  CHECK(consumer->stats().failed >= 2);  // one call may have been in a batch
  CHECK(world.parked() == 0);
}

TEST_CASE("after a dead letter the events behind it are applied in order") {
  const World world;
  const auto consumer = EventConsumer::create("steps-over", {"#"}, world.consumerOptions());
  consumer->onEvent("#", [](const Event& event, Transaction& tx) {
    writeJournal(event, tx);
    if (event.data().at("number") == 2) throw std::runtime_error("never");
  });
  consumer->start();
  send(world.exchange, numberedEvents(4));
  CHECK(eventually(20s, [&] { return world.journal() == 3; }));
  CHECK(world.database.query("select string_agg(number::text, ' ' order by position) "
                             "from journal") == "1 3 4");
  CHECK(readDeadLetters(consumer->queue(), 1).size() == 1);
}

namespace {

/// A handler that answers each event with one of its own, in the same transaction.
HandlerBody answering(bool fails) {
  const auto publisher =
      std::shared_ptr<EventPublisher>(EventPublisher::create("answering-service"));
  return [publisher, fails](const Event& event, Transaction& tx) {
    Event answer("order.answered", {{"number", 7}});
    publisher->publish(tx, answer.setKey(event.key()).setCausationId(event.id()));
    if (fails) throw std::runtime_error("after publishing");
  };
}

}  // namespace

TEST_CASE("an event published by a handler commits with its effect and the inbox row") {
  Scene scene("chain", answering(false));
  scene.handleOne();
  scene.checkApplied();
  CHECK(scene.world.outbox() == 1);
}

TEST_CASE("an event published by a handler that fails is rolled back with all the rest") {
  Scene scene("broken-chain", answering(true));
  scene.handleOne();
  CHECK(scene.world.outbox() == 0);
  scene.checkDeadLettered("handler-failed", "after publishing", "3");
}

TEST_CASE("a chain of two services carries the cause from event to event") {
  World second;
  const World first;
  second.exchange = first.exchange;
  const auto answer = answering(false);
  const auto middle = EventConsumer::create("middle", {"order.placed"}, first.consumerOptions());
  middle->onEvent("order.placed", answer);
  const auto end = EventConsumer::create("end", {"order.answered"}, second.consumerOptions());
  end->onEvent("#", [](const Event& event, Transaction& tx) {
    writeJournal(event, tx, event.causationId() + " " + event.source());
  });
  middle->start();
  end->start();
  const auto relay = Relay::create(relayOptions(first.database, first.exchange));
  relay->start();
  PublisherOptions options;
  options.database = first.database.options();
  const auto event = numberedEvents(1)[0];
  EventPublisher::create("first-service", options)->publish(event);
  CHECK(eventually(20s, [&] { return second.journal() == 1; }));
  CHECK(second.database.query("select note from journal") == event.id() + " answering-service");
  CHECK(second.database.query("select key from journal") == "key");
}

TEST_CASE(
    "a driver of handlers whose delivery met an outage delivers the next on a new connection") {
  const World world;
  const auto consumer = EventConsumer::create("driven", {"#"}, world.consumerOptions());
  consumer->onEvent("#", [first = true](const Event& event, Transaction& tx) mutable {
    writeJournal(event, tx);
    if (!std::exchange(first, false)) return;
    tx.exec("select pg_terminate_backend(pg_backend_pid())");
  });
  testing::HandlerDriver driver(*consumer);
  const Event event = numberedEvents(1)[0];
  CHECK_THROWS_AS(driver.deliver(event), DatabaseError);
  CHECK(driver.deliver(event).outcome == testing::Outcome::Applied);
  CHECK(world.journal() == 1);
}

}  // namespace pillion::test
