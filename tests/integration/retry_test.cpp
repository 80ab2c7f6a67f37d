// Events whose handler fails: parked in the service's database, tried again by schedule,
// dead-lettered.
#define PILLION_TEST_MAIN
#include <csignal>
#include <map>
#include <random>
#include <thread>

#include "consumer_fixture.hpp"

namespace pillion::test {
namespace {

using namespace std::chrono_literals;

/// The numbers in the journal, in the order of their commits.
std::string numbersOf(const World& world, const std::string& key) {
  return world.database.query(
      "select coalesce(string_agg(number::text, ' ' order by position), '') from journal where"
      " key = '" +
      key + "'");
}

/// A consumer whose handler fails while `failing` says so.
std::unique_ptr<EventConsumer> failingConsumer(const ConsumerOptions& options,
                                               const std::string& service,
                                               std::function<bool(const Event&)> failing) {
  auto consumer = EventConsumer::create(service, {"#"}, options);
  consumer->onEvent("#", [failing = std::move(failing)](const Event& event, Transaction& tx) {
    writeJournal(event, tx);
    if (failing(event)) throw std::runtime_error("told to fail");
  });
  return consumer;
}

bool isNumber(const Event& event, int number, const std::string& key) {
  return event.key() == key && event.data().at("number") == number;
}

/// Ten thousand events of a hundred keys, interleaved.
std::vector<Event> manyEvents() {
  std::vector<Event> events;
  for (int number = 1; number <= 100; ++number) {
    for (int key = 0; key < 100; ++key) {
      events.push_back(
          Event("order.placed", {{"number", number}}).setKey("key-" + std::to_string(key)));
    }
  }
  return events;
}

/// One of the ten thousand fails for ever; everything but it is applied once.
void poisonAmongMany(ParkedPolicy policy, int workers) {
  const World world;
  auto options = world.consumerOptions();
  options.parked = policy;
  options.workers = workers;
  options.retry = {.maxAttempts = 3, .first = 100ms, .factor = 1, .most = 100ms};
  const auto consumer =
      failingConsumer(options, "poisoned", [](const Event& e) { return isNumber(e, 50, "key-7"); });
  consumer->start();
  send(world.exchange, manyEvents());
  CHECK(eventually(60s, [&] { return world.journal() == 9'999; }));
  CHECK(eventually(20s, [&] { return consumer->stats().deadLettered == 1; }));
  CHECK(world.journalIds() == 9'999);
  CHECK(world.ordered());
  CHECK(world.parked() == 0);
  CHECK(world.inbox() == 9'999);
  const auto stats = consumer->stats();
  CHECK(stats.parked == 1);
  CHECK(stats.failed == 3);
  CHECK((stats.held > 0) == (policy == ParkedPolicy::Hold));
  const auto letters = readDeadLetters(consumer->queue(), 1);
  REQUIRE(letters.size() == 1);
  CHECK(header(letters[0], "pillion-dead-attempts") == "3");
  CHECK(header(letters[0], "pillion-dead-first-at") < header(letters[0], "pillion-dead-at"));
  CHECK(header(letters[0], "pillion-dead-queue") == consumer->queue());
}

}  // namespace

TEST_CASE("one poison event in ten thousand under hold: its key waits and keeps its order") {
  poisonAmongMany(ParkedPolicy::Hold, 1);
}

TEST_CASE(
    "one poison event in ten thousand under hold, four workers: the order of each key holds") {
  poisonAmongMany(ParkedPolicy::Hold, 4);
}

TEST_CASE("one poison event in ten thousand under continue: nobody waits for it") {
  poisonAmongMany(ParkedPolicy::Continue, 2);
}

TEST_CASE(
    "under hold the followers of a failing event wait in order, other keys and keyless do not") {
  const World world;
  std::atomic<bool> broken{true};
  auto options = world.consumerOptions();
  options.retry = {.maxAttempts = 100'000, .first = 20ms, .factor = 1, .most = 20ms};
  const auto stubborn = failingConsumer(
      options, "stubborn", [&](const Event& e) { return broken && isNumber(e, 2, "a"); });
  stubborn->start();
  std::vector<Event> events;
  for (int number = 1; number <= 4; ++number) {
    for (const char* key : {"a", "b", ""}) {
      events.push_back(Event("order.placed", {{"number", number}}).setKey(key));
    }
  }
  send(world.exchange, events);
  REQUIRE(eventually(20s, [&] { return world.journal() == 9 && world.parked() == 3; }));
  CHECK(numbersOf(world, "a") == "1");
  CHECK(numbersOf(world, "b") == "1 2 3 4");
  CHECK(Servers::mq().queueDepth(stubborn->queue()) == 0);  // they wait in the database
  broken = false;
  CHECK(eventually(20s, [&] { return world.parked() == 0; }));
  CHECK(numbersOf(world, "a") == "1 2 3 4");
  CHECK(stubborn->stats().deadLettered == 0);
  CHECK(stubborn->stats().held == 2);
}

TEST_CASE("under continue the followers of a failing event overtake it") {
  const World world;
  std::atomic<bool> broken{true};
  auto options = world.consumerOptions();
  options.parked = ParkedPolicy::Continue;
  options.retry = {.maxAttempts = 100'000, .first = 20ms, .factor = 1, .most = 20ms};
  const auto consumer = failingConsumer(
      options, "hasty", [&](const Event& e) { return broken && isNumber(e, 2, "a"); });
  consumer->start();
  send(world.exchange, numberedEvents(4, "a"));
  REQUIRE(eventually(20s, [&] { return world.journal() == 3; }));
  broken = false;
  CHECK(eventually(20s, [&] { return world.journal() == 4; }));
  CHECK(numbersOf(world, "a") == "1 3 4 2");
}

TEST_CASE("an event that fails twice and then succeeds is applied once, across a restart") {
  const World world;
  declareOnly(world, "restarted");
  send(world.exchange, numberedEvents(3, "a"));
  {
    ConsumerProcess first(world, "restarted", "", {"fail=2", "retry=60000"});
    first.awaitReady();
    REQUIRE(eventually(20s, [&] { return world.parked() == 2; }));
    CHECK(numbersOf(world, "a") == "1");
    auto counters = first.stop();
    CHECK(counters["failed"] == 1);
  }
  CHECK(Servers::mq().queueDepth("restarted.events") == 0);
  world.database.execute(
      "update pillion.inbox_parked set next_attempt_at = now() where"
      " next_attempt_at is not null");
  ConsumerProcess second(world, "restarted", "", {"fail=2", "times=1"});
  CHECK(eventually(20s, [&] { return world.journal() == 3; }));
  CHECK(world.parked() == 0);
  auto counters = second.stop();
  CHECK(counters["failed"] == 1);
  CHECK(numbersOf(world, "a") == "1 2 3");
  CHECK(world.journalIds() == 3);
}

TEST_CASE("an instance that is gone leaves its parked events to the others") {
  const World world;
  declareOnly(world, "heirs");
  send(world.exchange, numberedEvents(2, "a"));
  ConsumerProcess first(world, "heirs", "", {"fail=1", "retry=1000"});
  REQUIRE(eventually(20s, [&] { return world.parked() == 2; }));
  ConsumerProcess second(world, "heirs");
  second.awaitReady();
  first.process().signal(SIGKILL);
  CHECK(eventually(30s, [&] { return world.journal() == 2 && world.parked() == 0; }));
  CHECK(numbersOf(world, "a") == "1 2");
  second.stop();
}

TEST_CASE(
    "a parked event whose handler ends the process every time is given up after its attempts") {
  const World world;
  declareOnly(world, "deadly");
  send(world.exchange, numberedEvents(2, "a"));
  {
    // The first attempt ends well enough to park it; the next ones end the process, and come when
    // this test says so.
    ConsumerProcess first(world, "deadly", "", {"fail=1", "attempts=3", "retry=60000"});
    REQUIRE(eventually(20s, [&] { return world.parked() == 2; }));
    first.process().signal(SIGKILL);
  }
  for (int death = 0; death < 2; ++death) {
    world.database.execute(
        "update pillion.inbox_parked set next_attempt_at = now() where"
        " next_attempt_at is not null and attempts < 3");
    ConsumerProcess victim(world, "deadly", "parked.locked=kill@1", {"attempts=3"});
    REQUIRE(eventually(20s, [&] { return !victim.process().running() || world.parked() < 2; }));
    victim.process().signal(SIGKILL);
  }
  world.database.execute(
      "update pillion.inbox_parked set next_attempt_at = now() where"
      " next_attempt_at is not null");
  ConsumerProcess last(world, "deadly", "", {"attempts=3"});
  CHECK(eventually(20s, [&] { return world.parked() == 0; }));
  CHECK(numbersOf(world, "a") == "2");
  const auto letters = readDeadLetters("deadly.events", 1);
  REQUIRE(letters.size() == 1);
  CHECK(header(letters[0], "pillion-dead-reason") == "handler-failed");
  CHECK(header(letters[0], "pillion-dead-error").find("process ended") != std::string::npos);
  last.stop();
}

TEST_CASE("a consumer killed while it parks or retries neither loses nor repeats an effect") {
  for (const std::string site :
       {"delivery.parking", "delivery.parked", "parked.handled", "parked.committed"}) {
    CAPTURE(site);
    const World world;
    declareOnly(world, "frail");
    send(world.exchange, numberedEvents(4, "a"));
    {
      ConsumerProcess victim(world, "frail", site + "=kill@1", {"fail=2", "times=2"});
      REQUIRE(victim.process().waitFor(20s) == kKilled);
    }
    CHECK(world.database.count("select count(*) from journal where number = 2") <= 1);
    world.database.execute(
        "update pillion.inbox_parked set next_attempt_at = now() where"
        " next_attempt_at is not null");
    ConsumerProcess heir(world, "frail");
    CHECK(eventually(20s, [&] { return world.journal() == 4 && world.parked() == 0; }));
    CHECK(numbersOf(world, "a") == "1 2 3 4");
    heir.stop();
  }
}

TEST_CASE(
    "a consumer killed around a dead letter leaves one of it, or two, and applies it no more") {
  const std::map<std::string, long> letters{{"parked.givingUp", 1},
                                            {"parked.givenUp", 1},
                                            {"delivery.deadLettered", 2},
                                            {"letter.taken", 1},
                                            {"letter.confirmed", 2}};
  for (const auto& [site, expected] : letters) {
    CAPTURE(site);
    const World world;
    declareOnly(world, "mourning");
    auto nameless = messageOf(numberedEvents(1)[0]);
    nameless.messageId.clear();
    const bool isEvent = site != "delivery.deadLettered";
    const auto poison = isEvent ? messageOf(numberedEvents(1, "a")[0]) : nameless;
    send(world.exchange, std::vector<amqp::Message>{poison});
    {
      ConsumerProcess victim(world, "mourning", site + "=kill@1", {"fail=1", "attempts=2"});
      REQUIRE(victim.process().waitFor(20s) == kKilled);
    }
    world.database.execute("update pillion.inbox_parked set next_attempt_at = now()");
    ConsumerProcess heir(world, "mourning", "", {"fail=1", "attempts=2"});
    CHECK(eventually(30s, [&] {
      return Servers::mq().queueDepth("mourning.events.dead") == expected && world.parked() == 0 &&
             world.letters() == 0;
    }));
    CHECK(world.journal() == 0);
    CHECK(world.inbox() == 0);
    heir.stop();
  }
}

TEST_CASE(
    "two workers whose handlers lock rows crosswise are both applied, without an attempt lost") {
  const World world;
  world.database.execute("create table pair (id int primary key, n int not null)");
  world.database.execute("insert into pair values (1, 0), (2, 0)");
  auto options = world.consumerOptions();
  options.workers = 2;
  options.batchEvents = 1;
  std::atomic<int> calls{0};
  const auto consumer = EventConsumer::create("crossing", {"#"}, options);
  consumer->onEvent("#", [&](const Event& event, Transaction& tx) {
    const int first = event.data().at("number").get<int>();
    tx.exec_params("update pair set n = n + 1 where id = $1", first);
    ++calls;
    eventually(2s, [&] { return calls >= 2; });
    tx.exec_params("update pair set n = n + 1 where id = $1", 3 - first);
    writeJournal(event, tx);
  });
  consumer->start();
  send(world.exchange, std::vector<Event>{numberedEvents(1, "a")[0], numberedEvents(2, "b")[1]});
  CHECK(eventually(20s, [&] { return world.journal() == 2; }));
  CHECK(world.database.query("select string_agg(n::text, ' ') from pair") == "2 2");
  CHECK(consumer->stats().failed == 0);
  CHECK(calls >= 3);  // one of them was the deadlock's victim
}

namespace {

/// An instance that handles these types, and fails while `broken`.
std::unique_ptr<EventConsumer> version(const World& world, const std::vector<std::string>& types,
                                       const std::atomic<bool>& broken) {
  auto options = world.consumerOptions();
  options.retry = {.maxAttempts = 100'000, .first = 50ms, .factor = 1, .most = 50ms};
  auto consumer = EventConsumer::create("rolling", {"#"}, options);
  for (const std::string& type : types) {
    consumer->onEvent(type, [&broken](const Event& event, Transaction& tx) {
      if (broken) throw std::runtime_error("told to fail");
      writeJournal(event, tx);
    });
  }
  consumer->start();
  return consumer;
}

/// Parks an event of the new version's type and one behind it that both versions know.
void parkOfNewVersion(const World& world) {
  const std::atomic<bool> broken{true};
  const auto newer = version(world, {"order.placed", "order.cancelled"}, broken);
  send(world.exchange, std::vector{Event("order.cancelled", {{"number", 1}}).setKey("a"),
                                   Event("order.placed", {{"number", 2}}).setKey("a")});
  REQUIRE(eventually(20s, [&] { return world.parked() == 2; }));
  newer->stop();
}

}  // namespace

TEST_CASE("a parked event is left to an instance that has a handler for its type") {
  const World world;
  const LogCapture log;
  parkOfNewVersion(world);
  const std::atomic<bool> broken{false};
  const auto older = version(world, {"order.placed"}, broken);
  const auto seen = [&] {
    return world.database.count("select count(unknown_since) from pillion.inbox_parked") == 1;
  };
  REQUIRE(eventually(20s, seen));
  CHECK(eventually(5s, [&] {
    return log.count("parked events of type 'order.cancelled' have no handler here") == 1;
  }));
  send(world.exchange, numberedEvents(3, "b"));
  CHECK(eventually(20s, [&] { return world.journal() == 3; }));
  CHECK(world.parked() == 2);
  CHECK(world.database.count("select max(attempts) from pillion.inbox_parked") < 100);
  const auto newer = version(world, {"order.placed", "order.cancelled"}, broken);
  CHECK(eventually(60s, [&] { return world.journal() == 5 && world.parked() == 0; }));
  CHECK(numbersOf(world, "a") == "1 2");
  CHECK(older->stats().deadLettered + newer->stats().deadLettered == 0);
}

TEST_CASE("a parked event whose type no instance has known for an hour becomes a dead letter") {
  const World world;
  parkOfNewVersion(world);
  const std::atomic<bool> broken{false};
  const auto older = version(world, {"order.placed"}, broken);
  REQUIRE(eventually(20s, [&] {
    return world.database.count("select count(unknown_since) from pillion.inbox_parked") == 1;
  }));
  world.database.execute(
      "update pillion.inbox_parked set unknown_since = unknown_since - interval '61 min'");
  CHECK(eventually(30s, [&] { return world.parked() == 0; }));
  CHECK(numbersOf(world, "a") == "2");
  const auto letters = readDeadLetters(older->queue(), 1);
  REQUIRE(letters.size() == 1);
  CHECK(header(letters[0], "pillion-dead-reason") == "no-handler");
  CHECK(header(letters[0], "pillion-dead-error").find("order.cancelled") != std::string::npos);
}

TEST_CASE("three instances under a kill loop for a minute apply every event once") {
  const World world;
  declareOnly(world, "besieged");
  const auto relay = Relay::create(relayOptions(world.database, world.exchange));
  relay->start();
  std::atomic<long> written{0};
  std::jthread writer([&](const std::stop_token& stop) {
    const auto publisher = EventPublisher::create("writer");
    pqxx::connection connection(world.database.url());
    while (!stop.stop_requested()) {
      pqxx::work tx{connection};
      std::vector<Event> events;
      for (int i = 0; i < 20; ++i) {
        const long number = written + i;
        events.push_back(Event("order.placed", {{"number", number}})
                             .setKey("key-" + std::to_string(number % 50)));
      }
      publisher->publish(tx, events);
      tx.commit();
      written += 20;
      if (written - world.journal() > 5'000) {
        eventually(5s, [&] { return written - world.journal() < 2'000; });
      }
    }
  });
  std::mt19937 random(7);
  std::vector<std::unique_ptr<ConsumerProcess>> instances(3);
  int kills = 0;
  for (const auto end = std::chrono::steady_clock::now() + 60s;
       std::chrono::steady_clock::now() < end; ++kills) {
    auto& instance = instances[random() % instances.size()];
    if (instance) instance->process().signal(SIGKILL);
    instance = std::make_unique<ConsumerProcess>(
        world, "besieged", "", std::vector<std::string>{"workers=2", "fail=777", "times=1"});
    instance->awaitReady();
    const long before = world.journal();
    eventually(std::chrono::milliseconds(200 + random() % 800),
               [&] { return world.journal() > before + 2'000; });
  }
  writer.request_stop();
  writer.join();
  CHECK(eventually(60s, [&] { return world.journal() >= written && world.parked() == 0; }));
  for (auto& instance : instances) {
    if (instance) instance->stop();
  }
  relay->stop();
  MESSAGE(kills << " kills, " << written.load() << " events");
  CHECK(kills > 20);
  CHECK(world.journal() == written);
  CHECK(world.journalIds() == written);
  CHECK(Servers::mq().queueDepth("besieged.events.dead") == 0);
}

}  // namespace pillion::test
