// stop() returns in its time, whatever the servers do meanwhile.
#define PILLION_TEST_MAIN
#include <future>
#include <semaphore>

#include "consumer_fixture.hpp"
#include "support/frozen.hpp"
#include "support/tcp_gate.hpp"

namespace pillion::test {
namespace {

/// stop() may take this much longer than stopTimeout: a second for cancelled queries, and some for
/// the good-bye to the broker.
constexpr auto kLittleMore = 4s;
/// Longer than that, so that a stop() that waits for a server is told from one that does not.
constexpr auto kServerIsAway = 12s;

/// How long stop() took; at most until `release` was called, since the test must end anyway.
template <typename Release>
std::chrono::milliseconds timeOfStop(EventConsumer& consumer, Release release) {
  const auto begin = std::chrono::steady_clock::now();
  auto stopping = std::async(std::launch::async, [&] { consumer.stop(); });
  stopping.wait_for(kServerIsAway);
  const auto time = std::chrono::steady_clock::now() - begin;
  release();
  stopping.wait();
  return std::chrono::duration_cast<std::chrono::milliseconds>(time);
}

ConsumerOptions impatient(const World& world) {
  auto options = world.consumerOptions();
  options.stopTimeout = 500ms;
  return options;
}

/// The same through the gate, with far more patience for a broker that does not answer.
ConsumerOptions impatientThrough(const support::TcpGate& gate, const World& world) {
  auto options = impatient(world);
  options.broker.url = Servers::mq().urlThrough(gate.port());
  options.broker.connectTimeout = 60s;
  return options;
}

}  // namespace

TEST_CASE("stop() returns in time when PostgreSQL hangs under a handler's query") {
  const World world;
  const LogCapture log;
  auto options = impatient(world);
  options.workers = 3;
  options.batchEvents = 1;
  const auto consumer = EventConsumer::create("pg-hangs", {"#"}, options);
  std::atomic<int> begun{0};
  std::atomic<bool> slow{true};
  consumer->onEvent("#", [&](const Event& event, Transaction& tx) {
    writeJournal(event, tx);
    ++begun;
    if (slow) tx.exec("select pg_sleep(600)");
  });
  consumer->start();
  std::vector<Event> events;
  for (int i = 0; i < 3; ++i) events.push_back(numberedEvents(1, "key" + std::to_string(i))[0]);
  send(world.exchange, events);
  REQUIRE(eventually(20s, [&] { return begun == 3; }));
  slow = false;
  {
    // A cancel request needs the postmaster, which hangs.
    std::optional<support::Frozen> postmaster(Servers::pg().pid());
    CHECK(timeOfStop(*consumer, [&] { postmaster.reset(); }) < options.stopTimeout + kLittleMore);
  }
  CHECK(log.count("a handler still runs: event ") == 1);
  CHECK(eventually(20s, [&] {  // the cancel requests arrive now
    return world.database.count(
               "select count(*) from pg_stat_activity where query like "
               "'select pg_sleep%' and state = 'active'") == 0;
  }));
  CHECK(world.journal() == 0);

  const auto next = journalConsumer(world, "pg-hangs");
  next->start();
  // One that was parked by a worker that had been left behind may have a lease of half a minute.
  CHECK(eventually(45s, [&] { return world.journal() == 3; }));
  CHECK(world.journalIds() == 3);
}

TEST_CASE("stop() returns in time when RabbitMQ hangs while the consumer connects to it again") {
  const World world;
  const LogCapture log;
  support::TcpGate gate(Servers::mq().port());
  const auto options = impatientThrough(gate, world);
  const auto consumer = journalConsumer(options, "mq-hangs");
  consumer->start();
  const long connections = gate.accepted();
  {
    std::optional<support::Frozen> broker(Servers::mq().pid());
    gate.cut();
    REQUIRE(eventually(20s, [&] { return gate.accepted() > connections; }));
    CHECK(timeOfStop(*consumer, [&] { broker.reset(); }) < options.stopTimeout + kLittleMore);
  }
  CHECK(log.count("stops without a good-bye") == 1);
  consumer->start();  // and can be started again
  send(world.exchange, numberedEvents(1));
  CHECK(eventually(20s, [&] { return world.journal() == 1; }));
}

TEST_CASE("stop() returns in time when RabbitMQ hangs, and what was applied is not applied again") {
  const World world;
  auto options = impatient(world);
  options.broker.heartbeat = 30s;
  std::binary_semaphore begun{0};
  std::binary_semaphore proceed{0};
  const auto consumer = EventConsumer::create("mq-mute", {"#"}, options);
  consumer->onEvent("#", [&](const Event& event, Transaction& tx) {
    begun.release();
    proceed.acquire();
    writeJournal(event, tx);
  });
  consumer->start();
  send(world.exchange, numberedEvents(1));
  begun.acquire();
  {
    std::optional<support::Frozen> broker(Servers::mq().pid());
    proceed.release();
    CHECK(eventually(20s, [&] { return world.journal() == 1; }));
    CHECK(timeOfStop(*consumer, [&] { broker.reset(); }) < options.stopTimeout + kLittleMore);
  }
  const auto next = journalConsumer(world, "mq-mute");
  next->start();
  send(world.exchange, numberedEvents(1, "other"));
  CHECK(eventually(20s, [&] { return next->stats().applied == 1; }));
  CHECK(eventually(20s, [] { return Servers::mq().queueDepth("mq-mute.events") == 0; }));
  CHECK(world.journal() == 2);
}

TEST_CASE("stop() returns in time while a dead letter waits for a broker that does not answer") {
  const World world;
  const LogCapture log;
  support::TcpGate gate(Servers::mq().port());
  const auto options = impatientThrough(gate, world);
  std::binary_semaphore begun{0};
  std::binary_semaphore proceed{0};
  const auto consumer = EventConsumer::create("no-answer", {"#"}, options);
  consumer->onEvent("#", [&](const Event&) {
    begun.release();
    proceed.acquire();
    throw RejectEvent("not this one");
  });
  consumer->start();
  send(world.exchange, numberedEvents(1));
  begun.acquire();
  const long connections = gate.accepted();
  gate.stall();
  proceed.release();
  REQUIRE(eventually(20s, [&] { return gate.accepted() > connections; }));  // for the dead letter
  CHECK(timeOfStop(*consumer, [&] { gate.cut(); }) < options.stopTimeout + kLittleMore);
  CAPTURE(log.text());
  CHECK(log.count("consumer 'no-answer.events' stops") <= 1);  // of the good-bye, and of no worker
  CHECK(log.count("a handler still runs") == 0);
  CHECK(log.count("a worker still waits for a server") == 0);
  CHECK(world.letters() == 1);  // whoever starts next sends it
}

}  // namespace pillion::test
