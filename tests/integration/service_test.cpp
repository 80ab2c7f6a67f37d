// What a consuming service relies on besides retries: order among workers and instances, an end for
// handlers that hang, causes that are carried on, and its own tests.
#define PILLION_TEST_MAIN
#include <csignal>
#include <map>
#include <mutex>
#include <pillion/testing.hpp>
#include <semaphore>
#include <thread>

#include "base/random.hpp"
#include "consumer_fixture.hpp"
#include "event/event_id.hpp"

namespace pillion::test {
namespace {

using namespace std::chrono_literals;

}  // namespace

TEST_CASE("four workers run different keys at a time, and each key in its order") {
  const World world;
  auto options = world.consumerOptions();
  options.workers = 4;
  std::atomic<int> running{0};
  std::atomic<int> most{0};
  std::mutex mutex;
  std::map<std::string, int> inHand;
  const auto consumer = EventConsumer::create("workers", {"#"}, options);
  consumer->onEvent("#", [&](const Event& event, Transaction& tx) {
    {
      const std::scoped_lock lock(mutex);
      CHECK(++inHand[event.key()] == 1);
    }
    most = std::max(most.load(), ++running);
    writeJournal(event, tx);
    --running;
    const std::scoped_lock lock(mutex);
    --inHand[event.key()];
  });
  consumer->start();
  send(world.exchange, interleaved(20, 100));
  CHECK(eventually(30s, [&] { return world.journal() == 2'000; }));
  CHECK(world.ordered());
  CHECK(most > 1);
  CHECK(world.journalIds() == 2'000);
}

TEST_CASE("a key whose handler is slow holds up no other key of the same consumer") {
  const World world;
  auto options = world.consumerOptions();
  options.workers = 2;
  std::binary_semaphore proceed{0};
  const auto consumer = EventConsumer::create("uneven", {"#"}, options);
  consumer->onEvent("#", [&](const Event& event, Transaction& tx) {
    if (event.key() == "slow") proceed.acquire();
    writeJournal(event, tx);
  });
  consumer->start();
  send(world.exchange, numberedEvents(1, "slow"));
  REQUIRE(eventually(20s, [&] { return consumer->stats().longestRunning > 0ms; }));
  send(world.exchange, interleaved(5, 200));  // more than the prefetch
  CHECK(eventually(20s, [&] { return world.journal() == 1'000; }));
  proceed.release();
  CHECK(eventually(20s, [&] { return world.journal() == 1'001; }));
}

TEST_CASE("a handler that takes long is named in the log once, and stop() does not wait for ever") {
  const World world;
  const LogCapture log;
  auto options = world.consumerOptions();
  options.slowHandler = 50ms;
  options.stopTimeout = 300ms;
  std::binary_semaphore proceed{0};
  std::binary_semaphore returned{0};
  const auto consumer = EventConsumer::create("hanging", {"#"}, options);
  consumer->onEvent("#", [&](const Event& event, Transaction& tx) {
    writeJournal(event, tx);
    proceed.acquire();
    returned.release();
  });
  consumer->start();
  const Event event = numberedEvents(1)[0];
  send(world.exchange, event);
  CHECK(eventually(20s, [&] { return log.count("has been running for over 50 ms") == 1; }));
  CHECK(log.count(event.id()) >= 1);
  CHECK(consumer->stats().longestRunning >= 50ms);
  const auto begin = std::chrono::steady_clock::now();
  consumer->stop();
  CHECK(std::chrono::steady_clock::now() - begin < 10s);
  CHECK(log.count("a handler still runs: event " + event.id()) == 1);
  CHECK(eventually(20s, [] { return Servers::mq().queueDepth("hanging.events") == 1; }));

  // What it has done is rolled back when it returns, and the next consumer applies the event.
  const auto next = journalConsumer(world, "hanging");
  next->start();
  proceed.release();
  returned.acquire();
  CHECK(eventually(20s, [&] { return next->stats().applied == 1; }));
  CHECK(world.journal() == 1);
}

TEST_CASE("a handler that hangs in a query is interrupted when the time to stop is over") {
  const World world;
  auto options = world.consumerOptions();
  options.stopTimeout = 200ms;
  const LogCapture log;
  const auto consumer = EventConsumer::create("sleeping", {"#"}, options);
  std::atomic<bool> begun{false};
  consumer->onEvent("#", [&](const Event& event, Transaction& tx) {
    writeJournal(event, tx);
    begun = true;
    tx.exec("select pg_sleep(600)");
  });
  consumer->start();
  send(world.exchange, numberedEvents(1)[0]);
  REQUIRE(eventually(20s, [&] { return begun.load(); }));
  consumer->stop();
  CHECK(log.count("a handler still runs") == 0);
  CHECK(world.journal() == 0);
  CHECK(Servers::mq().queueDepth("sleeping.events") + world.parked() == 1);
}

TEST_CASE("partitioned queues: every event is applied once, each key in order, by one instance") {
  const World world;
  const std::vector<std::string> partitioned{"partitions=4", "workers=2"};
  ConsumerProcess first(world, "split", "", partitioned);
  first.awaitReady();
  ConsumerProcess second(world, "split", "", partitioned);
  second.awaitReady();
  send(world.exchange, withLanes(interleaved(40, 50)));
  CHECK(eventually(30s, [&] { return world.journal() >= 500; }));
  first.process().signal(SIGKILL);  // its queues go over to the other instance
  CHECK(eventually(30s, [&] { return world.journal() == 2'000; }));
  CHECK(world.journalIds() == 2'000);
  CHECK(world.ordered());
  for (int i = 0; i < 4; ++i) {
    CHECK(Servers::mq().queueDepth("split.events.p" + std::to_string(i)) == 0);
  }
  second.stop();
}

TEST_CASE(
    "partitioned queues: an instance that stops hands its queues over, each key in its order") {
  const World world;
  const std::vector<std::string> arguments{"partitions=2", "prefetch=200", "batch=5"};
  ConsumerProcess first(world, "handover", "", arguments);
  first.awaitReady();
  ConsumerProcess second(world, "handover", "", arguments);
  second.awaitReady();
  send(world.exchange, withLanes(interleaved(40, 100)));  // many times the prefetch
  CHECK(eventually(30s, [&] { return world.journal() >= 200; }));
  auto left = first.stop();
  REQUIRE(left["applied"] < 3'000);
  CHECK(left["delivered"] > left["applied"]);  // there was something to give back
  CHECK(eventually(30s, [&] { return world.journal() == 4'000; }));
  CHECK(world.journalIds() == 4'000);
  CHECK(world.ordered());
  for (const std::string queue : {"handover.events.p0", "handover.events.p1"}) {
    CHECK(eventually(20s, [&] { return Servers::mq().queueDepth(queue) == 0; }));
  }
  auto heir = second.stop();
  CHECK(left["applied"] + heir["applied"] == 4'000);
  CHECK(heir["delivered"] == heir["applied"] + heir["duplicates"]);
  CHECK(left["dead"] + heir["dead"] == 0);
}

TEST_CASE("partitioned queues: an instance that was stopped and wakes up late changes no order") {
  for (const std::string site : {"delivery.received", "delivery.claimed", "delivery.handled"}) {
    CAPTURE(site);
    const World world;
    const std::vector<std::string> arguments{"partitions=2", "prefetch=200", "batch=5",
                                             "heartbeat=1"};
    ConsumerProcess sleeper(world, "late", site + "=stop@20", arguments);
    sleeper.awaitReady();
    ConsumerProcess heir(world, "late", "", arguments);
    heir.awaitReady();
    send(world.exchange, withLanes(interleaved(40, 100)));
    // The broker gives the sleeper up after two heartbeats, and the other takes over when its lease
    // has run out, but for what the sleeper's open transaction holds. Its own share is no more than
    // two thirds.
    const std::string waits =
        "select count(*) from pg_stat_activity where datname = current_database() and "
        "wait_event_type = 'Lock'";
    REQUIRE(eventually(
        60s, [&] { return world.journal() >= 3'000 || world.database.count(waits) > 0; }));
    sleeper.process().signal(SIGCONT);
    CHECK(eventually(30s, [&] { return world.journal() == 4'000; }));
    CHECK(world.journalIds() == 4'000);
    CHECK(world.ordered());
    auto woken = sleeper.stop();
    auto other = heir.stop();
    CHECK(woken["applied"] > 0);
    CHECK(other["applied"] > 0);
    CHECK(woken["duplicates"] + other["duplicates"] > 0);  // both had some of the same in hand
  }
}

TEST_CASE("events reach partitioned queues from a relay, and those without a lane the first") {
  const World world;
  auto options = world.consumerOptions();
  options.partitions = 3;
  const auto consumer = journalConsumer(options, "parts");
  consumer->start();
  consumer->stop();
  auto foreign = messageOf(numberedEvents(1)[0]);
  send(world.exchange, std::vector<amqp::Message>{foreign});
  CHECK(Servers::mq().queueDepth("parts.events.p0") == 1);

  const auto relay = Relay::create(relayOptions(world.database, world.exchange));
  relay->start();
  auto publisher = EventPublisher::create("writer", {.database = world.database.options()});
  for (const Event& event : interleaved(30, 1)) publisher->publish(event);
  const auto depth = [](int i) {
    return Servers::mq().queueDepth("parts.events.p" + std::to_string(i));
  };
  CHECK(eventually(20s, [&] { return depth(0) + depth(1) + depth(2) == 31; }));
  CHECK(depth(1) > 0);
  CHECK(depth(2) > 0);
  relay->stop();
  consumer->start();
  CHECK(eventually(20s, [&] { return world.journal() == 31; }));
}

TEST_CASE(
    "a queue of other arguments is refused with the difference, before anything is consumed") {
  const World world;
  declareOnly(world, "different");
  auto options = world.consumerOptions();
  options.deliveryLimit = 7;
  const auto consumer = journalConsumer(options, "different");
  try {
    consumer->start();
    FAIL("it started");
  } catch (const ConfigError& error) {
    const std::string text = error.what();
    CAPTURE(text);
    CHECK(text.find("x-delivery-limit") != std::string::npos);
    CHECK(text.find("'7'") != std::string::npos);
    CHECK(text.find("'100'") != std::string::npos);
  }
}

TEST_CASE("what a handler publishes carries its cause, correlation and trace on, down a chain") {
  const World world;
  testing::OutboxDrain outbox(world.database.options());
  const std::shared_ptr<EventPublisher> publisher =
      EventPublisher::create("chain", {.database = world.database.options()});
  const auto consumer = EventConsumer::create("chain", {"#"}, world.consumerOptions());
  consumer->onEvent("#", [&](const Event& event, Transaction& tx) {
    publisher->publish(tx, Event("order.answered", {{"to", event.id()}}));
    publisher->publish(tx, Event("order.own", {}).setCausationId("mine").setCorrelationId("own"));
  });
  testing::HandlerDriver driver(*consumer);
  const std::string trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  Event first = numberedEvents(1)[0];
  first.setTrace(trace, "a=b");
  CHECK(driver.deliver(first).outcome == testing::Outcome::Applied);
  const auto answers = outbox.take();
  REQUIRE(answers.size() == 2);
  CHECK(answers[0].causationId() == first.id());
  CHECK(answers[0].correlationId() == first.id());  // the first of a chain gives it its name
  CHECK(answers[0].traceparent() == trace);
  CHECK(answers[0].tracestate() == "a=b");
  CHECK(answers[1].causationId() == "mine");
  CHECK(answers[1].correlationId() == "own");

  CHECK(driver.deliver(answers[0]).outcome == testing::Outcome::Applied);
  const auto next = outbox.take();
  REQUIRE(next.size() == 2);
  CHECK(next[0].causationId() == answers[0].id());
  CHECK(next[0].correlationId() == first.id());
  CHECK(next[0].traceparent() == trace);

  Event hostile = numberedEvents(1)[0];
  hostile.setTrace("no trace").setCorrelationId("\xff\xfe");
  CHECK(driver.deliver(hostile).outcome == testing::Outcome::Applied);
  const auto clean = outbox.take();
  REQUIRE(clean.size() == 2);
  CHECK(clean[0].correlationId() == hostile.id());
  CHECK(clean[0].traceparent().empty());

  publisher->publish(Event("order.alone", {}));  // outside of a handler
  CHECK(outbox.take().at(0).causationId().empty());
}

TEST_CASE("a service's own test sees what its handlers did, without a broker") {
  const World world;
  const auto consumer = EventConsumer::create("tested", {"order.*"}, world.consumerOptions());
  consumer->onEvent("order.placed", [](const Event& event, Transaction& tx) {
    writeJournal(event, tx);
    if (event.data().at("number") == 2) throw std::runtime_error("no stock");
    if (event.data().at("number") == 3) throw RejectEvent("never");
  });
  testing::HandlerDriver driver(*consumer);
  const auto events = numberedEvents(3);
  using testing::Outcome;
  CHECK(driver.deliver(events[0]).outcome == Outcome::Applied);
  CHECK(driver.deliver(events[0]).outcome == Outcome::Duplicate);
  const auto failed = driver.deliver(events[1]);
  CHECK(failed.outcome == Outcome::Failed);
  CHECK(failed.error == "no stock");
  const auto rejected = driver.deliver(events[2]);
  CHECK(rejected.outcome == Outcome::Rejected);
  CHECK(rejected.error == "never");
  CHECK(driver.deliver(Event("order.unknown", {})).outcome == Outcome::Ignored);
  CHECK(driver.deliver(Event::ofBytes("order.placed", "{", "application/json")).outcome ==
        Outcome::Invalid);
  CHECK(world.journal() == 1);
  CHECK(world.inbox() == 1);
  CHECK(world.parked() == 0);
}

TEST_CASE("the outbox drain gives each committed event once, a late commit too, in order") {
  const World world;
  const auto publisher = EventPublisher::create("writer", {.database = world.database.options()});
  publisher->publish(Event("order.before", {}));
  testing::OutboxDrain outbox(world.database.options());
  CHECK(outbox.take().empty());
  auto slow = world.database.connect();
  pqxx::work late{slow};
  publisher->publish(late, Event("order.late", {{"number", 1}}).setKey("k").setHeader("a", "b"));
  publisher->publish(Event("order.first", {}));
  const auto first = outbox.take();
  REQUIRE(first.size() == 1);
  CHECK(first[0].type() == "order.first");
  CHECK(first[0].source() == "writer");
  late.commit();
  const auto second = outbox.take();
  REQUIRE(second.size() == 1);
  CHECK(second[0].type() == "order.late");
  CHECK(second[0].data() == nlohmann::json{{"number", 1}});
  CHECK(second[0].key() == "k");
  CHECK(second[0].headers() == Event::Headers{{"a", "b"}});
  CHECK(outbox.take().empty());
}

TEST_CASE("the consumer warns when the oldest event comes near the end of the dedupe window") {
  const World world;
  const LogCapture log;
  auto options = world.consumerOptions();
  options.dedupeWindow = 24h;
  const auto consumer = journalConsumer(options, "slowpoke");
  consumer->start();
  class Past : public base::Clock {
   public:
    [[nodiscard]] Wall wall() const override { return std::chrono::system_clock::now() - 20h; }
    [[nodiscard]] Boot boot() const override { return base::systemClock().boot(); }
  };
  for (int i = 0; i < 3; ++i) {
    auto old = messageOf(numberedEvents(1)[0]);
    old.messageId = makeEventId(Past());
    send(world.exchange, std::vector<amqp::Message>{old});
    CHECK(eventually(20s, [&] { return world.journal() == i + 1; }));
  }
  CHECK(log.count("is 20 hours old, and the dedupe window is 24 hours") == 1);
}

}  // namespace pillion::test
