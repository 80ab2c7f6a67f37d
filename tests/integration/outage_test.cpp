// One of the servers, or the network before it, is away: everybody waits, says so once, goes on.
#define PILLION_TEST_MAIN
#include <ctime>
#include <semaphore>
#include <thread>

#include "base/failpoint.hpp"
#include "consumer_fixture.hpp"
#include "support/sanitized.hpp"
#include "support/tcp_gate.hpp"

namespace pillion::test {
namespace {

namespace failpoint = base::failpoint;

/// A world whose consumer reaches both servers through gates.
struct GatedWorld : World {
  [[nodiscard]] ConsumerOptions gatedOptions() const {
    auto options = consumerOptions();
    options.database.url = Servers::pg().urlThrough(pgGate.port(), database.name());
    options.broker.url = Servers::mq().urlThrough(mqGate.port());
    options.broker.connectTimeout = 2s;
    return options;
  }

  support::TcpGate pgGate{Servers::pg().port()};
  support::TcpGate mqGate{Servers::mq().port()};
};

void vanish(support::TcpGate& gate) {
  gate.refuse();
  gate.cut();
}

/// CPU time of this process, in seconds; half of it where a sanitizer slows the test's own work.
double cpuSeconds() {
  const double seconds = static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
  return support::kSanitized ? seconds / 2 : seconds;
}

bool emptyQueue(const std::string& queue) {
  return Servers::mq().queueDepth(queue) == 0;
}

/// Applied once each, queue empty, and one line for the end of the outage as for its beginning.
void checkRecovered(const World& world, const LogCapture& log, const std::string& queue,
                    long events) {
  CHECK(eventually(30s, [&] { return world.journal() >= events; }));
  CHECK(eventually(10s, [&] { return emptyQueue(queue); }));
  CHECK(world.journal() == events);
  CHECK(world.journalIds() == events);
  CAPTURE(log.text());
  CHECK(log.count(" waits: ") == 1);
  CHECK(eventually(10s, [&] { return log.count(" goes on") == 1; }));
}

}  // namespace

TEST_CASE(
    "with PostgreSQL out of reach nothing is acked, nothing spins, and it goes on by itself") {
  GatedWorld gated;
  const LogCapture log;
  const auto consumer = journalConsumer(gated.gatedOptions(), "pg-gone");
  consumer->start();
  send(gated.exchange, numberedEvents(1)[0]);
  REQUIRE(eventually(20s, [&] { return gated.journal() == 1; }));
  REQUIRE(eventually(20s, [&] { return emptyQueue(consumer->queue()); }));

  vanish(gated.pgGate);
  send(gated.exchange, numberedEvents(5));
  const double before = cpuSeconds();
  CHECK(holdsFor(4s, [&] { return log.lines().size() <= 2 && gated.journal() == 1; }));
  CHECK(cpuSeconds() - before < 1.5);  // of 4 s, with the test's own polling in it
  CHECK(Servers::mq().queueDepth(consumer->queue()) == 5);
  CHECK(consumer->stats().failed == 0);  // an outage is not the handler's failure
  CHECK(consumer->stats().deadLettered == 0);
  CHECK(log.count(" waits: ") == 1);
  CHECK(log.count(" goes on") == 0);

  gated.pgGate.pass();
  checkRecovered(gated, log, consumer->queue(), 6);
  CHECK(consumer->stats().delivered == 6);
}

TEST_CASE("a handler that is interrupted by the loss of PostgreSQL has its effect once") {
  GatedWorld world;
  const LogCapture log;
  std::atomic<int> calls{0};
  const auto consumer = EventConsumer::create("pg-cut", {"#"}, world.gatedOptions());
  consumer->onEvent("#", [&](const Event& event, Transaction& tx) {
    writeJournal(event, tx);
    if (++calls == 1) world.pgGate.cut();
    writeJournal(event, tx, "second");
  });
  consumer->start();
  send(world.exchange, numberedEvents(1)[0]);
  CHECK(eventually(20s, [&] { return world.journal() == 2; }));
  CHECK(eventually(10s, [&] { return emptyQueue(consumer->queue()); }));
  CHECK(calls == 2);
  CHECK(consumer->stats().failed == 0);
  CHECK(consumer->stats().applied == 1);
}

TEST_CASE("PostgreSQL stops and starts again under a consumer") {
  const World world;
  const LogCapture log;
  const auto consumer = journalConsumer(world, "pg-restart");
  consumer->start();
  send(world.exchange, numberedEvents(3));
  REQUIRE(eventually(20s, [&] { return world.journal() == 3; }));
  Servers::pg().stop();
  send(world.exchange, numberedEvents(5));
  CHECK(eventually(20s, [&] { return log.count(" waits: ") == 1; }));
  Servers::pg().start();
  checkRecovered(world, log, consumer->queue(), 8);
}

TEST_CASE("with RabbitMQ out of reach the consumer waits, says so once and goes on by itself") {
  GatedWorld world;
  const LogCapture log;
  const auto consumer = journalConsumer(world.gatedOptions(), "mq-gone");
  consumer->start();
  send(world.exchange, numberedEvents(3));
  REQUIRE(eventually(20s, [&] { return world.journal() == 3; }));

  vanish(world.mqGate);
  send(world.exchange, numberedEvents(5));
  const double before = cpuSeconds();
  CHECK(holdsFor(4s, [&] { return log.lines().size() <= 2; }));
  CHECK(cpuSeconds() - before < 1.0);
  CHECK(world.journal() == 3);
  world.mqGate.pass();
  checkRecovered(world, log, consumer->queue(), 8);
}

TEST_CASE("RabbitMQ stops and starts again under a relay and a consumer") {
  const World world;
  const LogCapture log;
  const auto consumer = journalConsumer(world, "mq-restart");
  consumer->start();
  const auto relay = Relay::create(relayOptions(world.database, world.exchange));
  relay->start();
  PublisherOptions options;
  options.database = world.database.options();
  const auto publisher = EventPublisher::create("publisher", options);
  for (const Event& event : numberedEvents(5)) publisher->publish(event);
  REQUIRE(eventually(20s, [&] { return world.journal() == 5; }));

  Servers::mq().stop();
  for (const Event& event : numberedEvents(5)) publisher->publish(event);
  CHECK(eventually(10s, [&] { return log.count(" waits: ") == 2; }));
  Servers::mq().start();
  CHECK(eventually(30s, [&] { return world.journal() >= 10; }));
  CHECK(eventually(20s, [&] { return drained(world.database); }));
  CHECK(eventually(10s, [&] { return emptyQueue(consumer->queue()); }));
  CHECK(world.journal() == 10);
  CAPTURE(log.text());
  CHECK(log.count(" waits: ") == 2);  // one of each
  CHECK(eventually(10s, [&] { return log.count(" goes on") == 2; }));
}

TEST_CASE("RabbitMQ is killed under a consumer and comes back") {
  const World world;
  const auto consumer = journalConsumer(world, "mq-killed");
  consumer->start();
  std::this_thread::sleep_for(1500ms);  // see "queues … survive that the broker is killed"
  send(world.exchange, numberedEvents(5));
  REQUIRE(eventually(20s, [&] { return world.journal() == 5; }));
  Servers::mq().kill();
  Servers::mq().start();
  send(world.exchange, numberedEvents(5));
  CHECK(eventually(30s, [&] { return world.journal() >= 10; }));
  CHECK(eventually(10s, [&] { return emptyQueue(consumer->queue()); }));
  CHECK(world.journal() == 10);
  CHECK(world.journalIds() == 10);
}

TEST_CASE("a COMMIT whose answer is lost is in doubt, and the event is applied once") {
  GatedWorld world;
  const LogCapture log;
  const auto consumer = journalConsumer(world.gatedOptions(), "in-doubt");
  consumer->start();
  failpoint::arm("delivery.handled=delay(300)@1");
  send(world.exchange, numberedEvents(1)[0]);
  REQUIRE(eventually(20s, [] { return failpoint::passages("delivery.handled") == 1; }));
  world.pgGate.delay(2s);  // COMMIT arrives in two seconds, its answer would in four
  REQUIRE(eventually(20s, [&] { return world.journal() == 1; }));
  world.pgGate.cut();
  world.pgGate.pass();
  failpoint::disarm();
  CHECK(eventually(20s, [&] { return emptyQueue(consumer->queue()); }));
  CAPTURE(log.text());
  CHECK(log.count(" waits: ") == 1);  // whichever of its threads noticed first
  CHECK(consumer->stats().duplicates == 1);
  CHECK(consumer->stats().applied == 0);
  CHECK(world.journal() == 1);
  CHECK(world.inbox() == 1);
}

TEST_CASE("a COMMIT that never arrives is in doubt, and the event is applied once") {
  GatedWorld world;
  const LogCapture log;
  const auto consumer = journalConsumer(world.gatedOptions(), "lost-commit");
  consumer->start();
  failpoint::arm("delivery.handled=delay(300)@1");
  send(world.exchange, numberedEvents(1)[0]);
  REQUIRE(eventually(20s, [] { return failpoint::passages("delivery.handled") == 1; }));
  world.pgGate.stall();
  CHECK(holdsFor(1s, [&] { return log.lines().size() <= 1; }));  // COMMIT is on its way
  world.pgGate.cut();
  world.pgGate.pass();
  failpoint::disarm();
  CHECK(eventually(20s, [&] { return emptyQueue(consumer->queue()); }));
  CHECK(consumer->stats().applied == 1);
  CHECK(consumer->stats().duplicates == 0);
  CHECK(world.journal() == 1);
}

TEST_CASE("a queue that is deleted while it is consumed from is declared again") {
  const World world;
  const LogCapture log;
  const auto consumer = journalConsumer(world, "deleted");
  consumer->start();
  send(world.exchange, numberedEvents(2));
  REQUIRE(eventually(20s, [&] { return world.journal() == 2; }));
  REQUIRE(eventually(20s, [&] { return emptyQueue(consumer->queue()); }));
  Servers::mq().deleteQueue(consumer->queue());
  CHECK(eventually(20s, [&] { return log.count(" goes on") == 1; }));
  send(world.exchange, numberedEvents(3));
  checkRecovered(world, log, consumer->queue(), 5);
  CHECK(log.count("the queue was deleted") == 1);
}

TEST_CASE(
    "a dead-letter queue that was deleted is declared again, or waited for with an operator") {
  for (const bool declares : {true, false}) {
    const World world;
    declareOnly(world, "no-morgue");
    const LogCapture log;
    auto options = world.consumerOptions();
    options.broker.declareTopology = declares;
    const auto consumer = EventConsumer::create("no-morgue", {"#"}, options);
    consumer->onEvent("#", [](const Event& event, Transaction& tx) {
      writeJournal(event, tx);
      if (event.data().at("number") == 1) throw RejectEvent("not this one");
    });
    consumer->start();
    Servers::mq().deleteQueue(consumer->queue() + ".dead");
    send(world.exchange, numberedEvents(2));
    CHECK(eventually(10s, [&] { return world.journal() == 1; }));  // its key goes on
    if (!declares) {
      CHECK(eventually(10s, [&] { return log.count("takes no message") == 1; }));
      declareOnly(world, "no-morgue");
    }
    CHECK(eventually(60s, [&] { return log.count("went to the dead-letter queue") == 1; }));
    CHECK(log.count("takes no message") == (declares ? 0 : 1));
    CHECK(readDeadLetters(consumer->queue(), 1).size() == 1);
  }
}

TEST_CASE("connections that an operator closes are opened again") {
  const World world;
  const LogCapture log;
  const auto consumer = journalConsumer(world, "closed");
  consumer->start();
  for (int round = 1; round <= 3; ++round) {
    send(world.exchange, numberedEvents(4));
    REQUIRE(eventually(20s, [&] { return world.journal() == 4 * round; }));
    REQUIRE(eventually(20s, [&] { return emptyQueue(consumer->queue()); }));
    Servers::mq().closeAllConnections();
    CHECK(
        eventually(20s, [&] { return log.count(" goes on") == static_cast<std::size_t>(round); }));
  }
  CHECK(world.journalIds() == 12);
  CHECK(log.count(" waits: ") == 3);
}

TEST_CASE("a connection closed while a handler runs neither loses nor repeats its effect") {
  const World world;
  std::counting_semaphore<> begun{0};
  std::counting_semaphore<> proceed{0};
  const LogCapture log;
  const auto consumer = EventConsumer::create("mid-handler", {"#"}, world.consumerOptions());
  consumer->onEvent("#", [&](const Event& event, Transaction& tx) {
    writeJournal(event, tx);
    begun.release();
    proceed.acquire();
  });
  consumer->start();
  send(world.exchange, numberedEvents(3));
  begun.acquire();
  Servers::mq().closeAllConnections();
  CHECK(eventually(20s, [&] { return log.count(" goes on") == 1; }));
  // All three again on the new connection, while the first still runs.
  CHECK(eventually(20s, [&] { return consumer->stats().delivered == 6; }));
  proceed.release(10);
  CHECK(eventually(20s, [&] { return emptyQueue(consumer->queue()); }));
  CHECK(world.journal() == 3);
  CHECK(world.journalIds() == 3);
  CHECK(consumer->stats().applied == 3);
  CHECK(consumer->stats().duplicates >= 1);  // one for each of the batch in hand
}

TEST_CASE("a broker that no longer answers is given up after two heartbeats") {
  GatedWorld world;
  auto options = world.gatedOptions();
  options.broker.heartbeat = 1s;
  const LogCapture log;
  const auto consumer = journalConsumer(options, "unplugged");
  consumer->start();
  world.mqGate.stall();
  CHECK(eventually(15s, [&] { return log.count(" waits: ") == 1; }));
  world.mqGate.cut();
  world.mqGate.pass();
  send(world.exchange, numberedEvents(3));
  checkRecovered(world, log, consumer->queue(), 3);
}

TEST_CASE("a memory alarm stops the relay but no consumer, and both go on when it ends") {
  const World world;
  const LogCapture log;
  declareOnly(world, "alarmed");
  send(world.exchange, numberedEvents(10));  // in the queue before the alarm
  auto relaying = relayOptions(world.database, world.exchange);
  relaying.broker.stallTimeout = 1s;  // being blocked is not being stalled
  const auto relay = Relay::create(relaying);
  relay->start();
  PublisherOptions options;
  options.database = world.database.options();
  const auto publisher = EventPublisher::create("publisher", options);
  const auto consumer = journalConsumer(world, "alarmed");
  {
    const MemoryAlarm alarm;
    for (const Event& event : numberedEvents(20)) publisher->publish(event);
    consumer->start();
    CHECK(eventually(20s, [&] { return world.journal() == 10; }));
    CHECK(eventually(20s, [&] { return emptyQueue(consumer->queue()); }));  // acks pass
    CHECK(holdsFor(3s, [&] { return world.journal() == 10; }));
    CHECK(relay->stats().published == 0);
  }
  CHECK(eventually(20s, [&] { return world.journal() >= 30; }));
  CHECK(eventually(20s, [&] { return drained(world.database); }));
  CHECK(world.journal() == 30);
  CHECK(world.journalIds() == 30);
  CHECK(relay->stats().repeated == 0);
  CHECK(consumer->stats().duplicates == 0);
}

TEST_CASE("relay and consumer may both be started before the servers are there") {
  const World world;
  declareOnly(world, "early");  // so that no event is unroutable
  Servers::pg().stop();
  Servers::mq().stop();
  const LogCapture log;
  const auto consumer = journalConsumer(world, "early");
  const auto relay = Relay::create(relayOptions(world.database, world.exchange));
  relay->start();
  consumer->start();
  CHECK(log.count(" waits: ") >= 2);  // without PostgreSQL it is not known whose queue it is
  CHECK(holdsFor(2s, [&] { return log.lines().size() <= 6; }));

  Servers::pg().start();
  Servers::mq().start();
  PublisherOptions options;
  options.database = world.database.options();
  const auto publisher = EventPublisher::create("publisher", options);
  for (const Event& event : numberedEvents(5)) publisher->publish(event);
  CHECK(eventually(30s, [&] { return world.journal() == 5; }));
  CHECK(eventually(20s, [&] { return drained(world.database); }));
  CHECK(world.journalIds() == 5);
  CAPTURE(log.text());
  CHECK(log.count(" waits: ") == log.count(" goes on"));
  CHECK(log.count(" waits: ") <= 4);
}

TEST_CASE("a right that the consumer's role lacks is said once, not with every attempt") {
  const World world;
  const std::string role = uniqueName("role");
  world.database.execute("create role \"" + role + "\" login password 'role'");
  const std::string to = " to \"" + role + "\"";
  world.database.execute("grant usage on schema pillion" + to);
  world.database.execute("grant select on all tables in schema pillion" + to);
  world.database.execute("grant select on all sequences in schema pillion" + to);
  auto options = world.consumerOptions();
  options.database.url = Servers::pg().urlAs(role, "role", world.database.name());
  CHECK_THROWS_WITH_AS(journalConsumer(options, "no-right")->start(),
                       doctest::Contains("permission denied for table inbox_window"), ConfigError);
  world.database.execute(
      "grant insert, update, delete on pillion.inbox_window, pillion.inbox_parked" + to);
  const LogCapture log;
  const auto consumer = journalConsumer(options, "no-right");
  consumer->start();
  send(world.exchange, numberedEvents(1)[0]);
  CHECK(eventually(20s, [&] { return log.count(" waits: ") == 1; }));
  CHECK(holdsFor(3s, [&] { return log.lines().size() <= 3; }));
  CHECK(Servers::mq().queueDepth(consumer->queue()) == 1);
  world.database.execute("grant all on all tables in schema pillion, public" + to);
  world.database.execute("grant all on all sequences in schema public" + to);
  checkRecovered(world, log, consumer->queue(), 1);
}

TEST_CASE("a right that the relay's user lacks is said once, not with every attempt") {
  const World world;
  declareOnly(world, "unwritten");
  Servers::mq().addUser("not-writing", "secret", ".*", "^$", ".*");
  auto options = relayOptions(world.database, world.exchange);
  options.broker.url = Servers::mq().url("not-writing", "secret");
  PublisherOptions publishing;
  publishing.database = world.database.options();
  const LogCapture log;
  const auto relay = Relay::create(options);
  relay->start();
  EventPublisher::create("publisher", publishing)->publish(numberedEvents(1)[0]);
  CHECK(eventually(20s, [&] { return log.count("not-writing") >= 1; }));
  CHECK(holdsFor(3s, [&] { return log.lines().size() <= 5; }));
  CHECK(relay->stats().published == 0);
  Servers::mq().addUser("not-writing", "secret", ".*", ".*", ".*");
  CHECK(eventually(30s, [&] { return drained(world.database); }));
  CHECK(Servers::mq().queueDepth("unwritten.events") == 1);
}

TEST_CASE("stop() returns while the servers are away") {
  GatedWorld world;
  const auto consumer = journalConsumer(world.gatedOptions(), "stop-away");
  consumer->start();
  send(world.exchange, numberedEvents(1)[0]);
  REQUIRE(eventually(20s, [&] { return world.journal() == 1; }));
  vanish(world.pgGate);
  send(world.exchange, numberedEvents(1)[0]);
  REQUIRE(eventually(20s, [&] { return consumer->stats().delivered == 2; }));
  vanish(world.mqGate);
  const auto begin = std::chrono::steady_clock::now();
  consumer->stop();
  CHECK(std::chrono::steady_clock::now() - begin < 5s);
  CHECK(Servers::mq().queueDepth(consumer->queue()) == 1);
}

}  // namespace pillion::test
