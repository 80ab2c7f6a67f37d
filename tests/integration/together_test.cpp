// What may share a transaction, and what may not: the followers of a parked event, and handlers
// whose effects are elsewhere.
#define PILLION_TEST_MAIN
#include <atomic>

#include "consumer_fixture.hpp"

namespace pillion::test {
namespace {

/// Transactions that have written the journal.
long transactions(const World& world) {
  return world.database.count("select count(distinct xmin::text) from journal");
}

long held(const World& world) {
  return world.database.count(
      "select count(*) from pillion.inbox_parked where next_attempt_at is null");
}

/// Parks the first of `count` events of one key and holds the others behind it; the first is then
/// to be tried at once.
struct Held {
  Held(const World& world, std::size_t count, std::function<void(int)> later)
      : options(world.consumerOptions()) {
    options.retry = {.maxAttempts = 3, .first = 1h, .factor = 1.0, .most = 1h};
    consumer = EventConsumer::create("held", {"#"}, options);
    consumer->onEvent("#", [this, later](const Event& event, Transaction& tx) {
      const int number = event.data().at("number").get<int>();
      if (number == 1 && fails) throw std::runtime_error("not yet");
      later(number);
      writeJournal(event, tx);
    });
    consumer->start();
    send(world.exchange, numberedEvents(count));
    REQUIRE(eventually(30s, [&] { return held(world) == static_cast<long>(count) - 1; }));
    fails = false;
    retryNow(world);
  }
  static void retryNow(const World& world) {
    world.database.execute(
        "update pillion.inbox_parked set next_attempt_at = now()"
        " where next_attempt_at is not null");
  }
  std::atomic<bool> fails{true};
  ConsumerOptions options;
  std::unique_ptr<EventConsumer> consumer;
};

}  // namespace

TEST_CASE("the followers of a parked event share transactions, and keep their order") {
  const World world;
  const Held setup(world, 500, [](int) {});
  CHECK(eventually(30s, [&] { return world.journal() == 500; }));
  CHECK(world.ordered());
  CHECK(world.parked() == 0);
  CHECK(transactions(world) < 50);
}

TEST_CASE("a follower that fails undoes none before it, and is tried again by itself") {
  const World world;
  std::atomic<int> calls{0};
  const Held setup(world, 120, [&](int number) {
    if (number == 60 && ++calls < 4) throw std::runtime_error("not now");
  });
  CHECK(eventually(30s, [&] { return world.journal() == 59; }));
  CHECK(eventually(30s, [&] {
    return world.database.count("select count(*) from pillion.inbox_parked where attempts = 1") ==
           1;
  }));
  CHECK(held(world) == 60);
  Held::retryNow(world);
  CHECK(eventually(30s, [&] { return world.journal() == 120; }));
  CHECK(world.ordered());
  CHECK(world.journalIds() == 120);
}

TEST_CASE("a process that ends among followers costs none of them an attempt") {
  const World world;
  const std::vector<std::string> arguments{"fail=1", "times=2", "attempts=2", "retry=1500"};
  declareOnly(world, "dies");
  send(world.exchange, numberedEvents(40));  // one batch, in which the first fails, and once alone
  ConsumerProcess first(world, "dies", "parked.handled=kill@2", arguments);
  REQUIRE(eventually(60s, [&] { return !first.process().running(); }));
  REQUIRE(first.process().wait() == kKilled);
  CHECK(world.journal() >= 1);  // the first was tried alone
  CHECK(world.database.count("select max(attempts) from pillion.inbox_parked") == 1);
  CHECK(world.database.count("select max(along) from pillion.inbox_parked") > 0);
  world.database.execute(
      "update pillion.inbox_parked set next_attempt_at = now() where next_attempt_at is not null");
  ConsumerProcess second(world, "dies", "", {"attempts=1"});
  second.awaitReady();
  CHECK(eventually(30s, [&] { return world.journal() == 40; }));
  CHECK(world.journalIds() == 40);
  CHECK(world.ordered());
  CHECK(second.stop()["dead"] == 0);
}

TEST_CASE("a handler without a transaction may wait for a row that a neighbour has locked") {
  for (const bool sameKey : {false, true}) {
    CAPTURE(sameKey);
    const World world;
    world.database.execute("create table public.stock (n int); insert into stock values (0)");
    declareOnly(world, "mixed");
    std::vector<Event> events;
    for (int i = 0; i < 10; ++i) {
      const std::string key = sameKey ? "one" : "key-" + std::to_string(i);
      events.push_back(Event(i % 3 == 1 ? "stock.own" : "stock.tx", {{"number", i}}).setKey(key));
    }
    send(world.exchange, events);
    const auto consumer = EventConsumer::create("mixed", {"#"}, world.consumerOptions());
    consumer->onEvent("stock.tx", [](const Event& event, Transaction& tx) {
      tx.exec("update stock set n = n + 1");
      writeJournal(event, tx);
    });
    std::atomic<int> own{0};
    consumer->onEvent("stock.own", [&](const Event&) {
      pqxx::connection connection(world.database.url());
      pqxx::work tx{connection};
      tx.exec("set local lock_timeout = '20s'");
      tx.exec("update stock set n = n + 100");
      tx.commit();
      ++own;
    });
    consumer->start();
    CHECK(eventually(15s, [&] { return consumer->stats().applied == 10; }));
    CHECK(own == 3);
    CHECK(world.database.count("select n from stock") == 307);
    CHECK(consumer->stats().failed == 0);
  }
}

}  // namespace pillion::test
