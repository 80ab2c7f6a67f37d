// What is prefetched is bounded by memory and by time, and held-up keys do not use it up.
#define PILLION_TEST_MAIN
#include <fstream>
#include <thread>

#include "consumer_fixture.hpp"

namespace pillion::test {
namespace {

/// The most memory that a process ever had in use, in MiB.
long peakMemory(pid_t pid) {
  std::ifstream status("/proc/" + std::to_string(pid) + "/status");
  for (std::string word; status >> word;) {
    long kib = 0;
    if (word == "VmHWM:" && status >> kib) return kib / 1024;
  }
  return -1;
}

/// RabbitMQ's limit for a delivery without an ack, looked at twice a second.
class ConsumerTimeout {
 public:
  explicit ConsumerTimeout(std::chrono::milliseconds limit) {
    set("consumer_timeout", std::to_string(limit.count()));
    set("channel_tick_interval", "500");
  }
  ~ConsumerTimeout() {
    set("consumer_timeout", "1800000");
    set("channel_tick_interval", "60000");
  }
  ConsumerTimeout(const ConsumerTimeout&) = delete;
  ConsumerTimeout& operator=(const ConsumerTimeout&) = delete;

 private:
  static void set(const std::string& name, const std::string& value) {
    Servers::mq().eval("application:set_env(rabbit, " + name + ", " + value + ")");
  }
};

}  // namespace

TEST_CASE("a key whose handler hangs fills the prefetch, and other keys go on all the same") {
  const World world;
  auto options = world.consumerOptions();
  options.workers = 2;
  options.prefetch = 20;
  options.stopTimeout = 500ms;
  std::atomic<bool> hangs{true};
  const auto consumer = EventConsumer::create("filled", {"#"}, options);
  consumer->onEvent("#", [&](const Event& event, Transaction& tx) {
    writeJournal(event, tx);
    while (hangs && event.key() == "hung") std::this_thread::sleep_for(5ms);
  });
  consumer->start();
  const auto hung = numberedEvents(100, "hung");
  send(world.exchange, hung);
  REQUIRE(eventually(20s, [&] { return consumer->stats().longestRunning > 1ms; }));
  for (const char* key : {"a", "b", "c", "d", "e"}) {
    send(world.exchange, numberedEvents(3, key));
  }
  CHECK(eventually(60s, [&] { return world.journal() == 15; }));
  hangs = false;
  CHECK(eventually(60s, [&] { return world.journal() == 115; }));
  CHECK(world.journalIds() == 115);
  CHECK(world.ordered());
}

TEST_CASE("handlers that take long let nothing wait for so long that the broker takes it away") {
  for (const int workers : {1, 3}) {
    CAPTURE(workers);
    const World world;
    const ConsumerTimeout timeout(3s);
    auto options = world.consumerOptions();
    options.workers = workers;
    options.deliveryLimit = 3;
    options.prefetchWait = 1s;
    const LogCapture log;
    const auto consumer = EventConsumer::create("slow", {"#"}, options);
    consumer->onEvent("#", [](const Event& event, Transaction& tx) {
      writeJournal(event, tx);
      std::this_thread::sleep_for(500ms);
    });
    consumer->start();
    send(world.exchange, numberedEvents(40, ""));
    CHECK(eventually(60s, [&] { return world.journal() == 40; }));
    CHECK(Servers::mq().queueDepth("slow.events.dead") == 0);
    CHECK(log.count("has a prefetch of") > 0);
    CHECK(consumer->stats().applied == 40);
  }
}

TEST_CASE("deliveries of eight MiB take no more memory than a few of them") {
  const World world;
  declareOnly(world, "large");
  const std::string body(8U << 20, 'x');
  for (int i = 0; i < 30; ++i) {
    send(world.exchange, Event("large.one", {{"number", i}, {"body", body}}));
  }
  ConsumerProcess consumer(world, "large", "", {"prefetch=300"});
  CHECK(eventually(180s, [&] { return world.journal() == 30; }));
  CHECK(world.journalIds() == 30);
  const long mib = peakMemory(consumer.process().pid());
  MESSAGE(mib << " MiB at most");
  CHECK(mib > 0);
  CHECK(mib < 200);
  consumer.stop();
}

TEST_CASE("many keys that a transaction elsewhere does not let go cost the others little") {
  const World world;
  auto options = world.consumerOptions();
  options.workers = 1;
  options.prefetch = 500;
  const LogCapture log;
  const auto consumer = journalConsumer(options, "besieged");
  const auto blocked = interleaved(100, 1);
  auto elsewhere = world.database.connect();
  std::optional<pqxx::work> holding(std::in_place, elsewhere);
  for (const Event& event : blocked) {
    holding->exec_params(
        "insert into pillion.inbox (consumer, event_id, source) values ($1, $2, $3)",
        consumer->queue(), event.id(), messageOf(event).appId);
  }
  consumer->start();
  send(world.exchange, blocked);
  long applied = 0;
  for (int round = 0; round < 3; ++round) {
    send(world.exchange, numberedEvents(20, "free-" + std::to_string(round)));
    applied += 20;
    CHECK(eventually(15s, [&] { return world.journal() == applied; }));
  }
  CHECK(log.count("is being applied in another transaction") == 1);
  holding.reset();
  CHECK(eventually(60s, [&] { return world.journal() == applied + 100; }));
  CHECK(world.journalIds() == applied + 100);
  CHECK(world.ordered());
}

}  // namespace pillion::test
