// Events whose handler fails: parked in the service's database, tried again by schedule,
// dead-lettered.
#define PILLION_TEST_MAIN
#include <csignal>
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

TEST_CASE("a parked event whose handler hides an SQL error is tried again by its schedule") {
  const World world;
  std::atomic<int> calls{0};
  const auto consumer = EventConsumer::create("secretive", {"#"}, world.consumerOptions());
  consumer->onEvent("#", [&](const Event& event, Transaction& tx) {
    writeJournal(event, tx);
    if (++calls == 1) throw std::runtime_error("to be parked");
    if (calls > 2) return;
    try {
      tx.exec_params("select 1 / $1::int", 0);
    } catch (const std::exception&) {  // as if all were well
    }
  });
  consumer->start();
  send(world.exchange, numberedEvents(1, "a"));
  CHECK(eventually(15s, [&] { return world.journal() == 1 && world.parked() == 0; }));
  CHECK(consumer->stats().failed == 2);
  CHECK(calls == 3);
}

namespace {

/// Two attempts, of which the first fails at once; what happens in the second is the test's.
std::unique_ptr<EventConsumer> twiceConsumer(const World& world, const std::string& service,
                                             std::function<void(int, Transaction&)> later) {
  auto options = world.consumerOptions();
  options.retry.maxAttempts = 2;
  auto consumer = EventConsumer::create(service, {"#"}, options);
  consumer->onEvent(
      "#", [calls = 0, later = std::move(later)](const Event& event, Transaction& tx) mutable {
        if (++calls == 1) throw std::runtime_error("to be parked");
        later(calls, tx);
        writeJournal(event, tx);
      });
  return consumer;
}

void checkAppliedAtLast(const World& world, const EventConsumer& consumer) {
  CHECK(eventually(15s, [&] { return world.journal() == 1 && world.parked() == 0; }));
  CHECK(consumer.stats().failed == 1);
  CHECK(consumer.stats().deadLettered == 0);
}

}  // namespace

TEST_CASE("a deadlock costs a parked event no attempt") {
  const World world;
  const auto consumer = twiceConsumer(world, "unlucky", [](int calls, Transaction& tx) {
    if (calls <= 3) tx.exec("do $$ begin raise exception using errcode = '40P01'; end $$");
  });
  consumer->start();
  send(world.exchange, numberedEvents(1, "a"));
  checkAppliedAtLast(world, *consumer);
}

TEST_CASE("the loss of PostgreSQL costs a parked event no attempt, and no lease is waited for") {
  const World world;
  const auto consumer = twiceConsumer(world, "cut-off", [](int calls, Transaction& tx) {
    if (calls == 2) tx.exec("select pg_terminate_backend(pg_backend_pid())");
  });
  consumer->start();
  send(world.exchange, numberedEvents(1, "a"));
  checkAppliedAtLast(world, *consumer);
}

TEST_CASE("a deadlock in a statement of Pillion's own is tried again at once, and is no outage") {
  for (const std::string moment : {"insert on pillion.inbox", "insert on pillion.inbox_parked",
                                   "delete on pillion.inbox_parked"}) {
    CAPTURE(moment);
    const World world;
    world.database.execute("create sequence times");
    world.database.execute(
        "create function lose() returns trigger language plpgsql as $$ begin"
        " if nextval('times') <= 2 then raise exception using errcode = '40P01'; end if;"
        " return coalesce(new, old); end $$");
    world.database.execute("create trigger lose before " + moment +
                           " for each row execute function lose()");
    const LogCapture log;
    const auto consumer = twiceConsumer(world, "deadlocked", [](int, Transaction&) {});
    consumer->start();
    send(world.exchange, numberedEvents(1, "a"));
    CHECK(eventually(15s, [&] { return world.journal() == 1 && world.parked() == 0; }));
    CHECK(consumer->stats().failed <= 1);
    CHECK(world.database.query("select is_called from times") == "t");
    CHECK(log.count("waits:") == 0);
  }
}

TEST_CASE(
    "what PostgreSQL refuses to record of an event holds up none before it, and is said once") {
  const World world;
  world.database.execute(
      "create function refuse() returns trigger language plpgsql as $$ begin"
      " if new.source = 'refused' then raise exception 'no such source'; end if;"
      " return new; end $$");
  world.database.execute(
      "create trigger refuse before insert on pillion.inbox for each row"
      " execute function refuse()");
  const LogCapture log;
  declareOnly(world, "exacting");
  std::vector<amqp::Message> messages;
  for (const Event& event : numberedEvents(3)) messages.push_back(messageOf(event));
  messages[1].appId = "refused";
  send(world.exchange, messages);
  const auto consumer = journalConsumer(world, "exacting");
  consumer->start();
  CHECK(eventually(20s, [&] { return log.count("waits: ") == 1; }));
  CHECK(log.count("no such source") >= 1);
  CHECK(world.journal() == 1);
  world.database.execute("drop trigger refuse on pillion.inbox");
  CHECK(eventually(20s, [&] { return world.journal() == 3; }));
  CHECK(world.ordered());
}

namespace {

/// A consumer whose handler hangs in a statement from the given call on, and stops impatiently.
std::unique_ptr<EventConsumer> hangingConsumer(const World& world, const std::string& service,
                                               int from) {
  auto options = world.consumerOptions();
  options.retry.maxAttempts = from;  // the one that hangs would be the last
  options.stopTimeout = 200ms;
  auto consumer = EventConsumer::create(service, {"#"}, options);
  consumer->onEvent("#", [calls = 0, from](const Event&, Transaction& tx) mutable {
    if (++calls < from) throw std::runtime_error("to be parked");
    tx.exec("select pg_sleep(60)");
  });
  return consumer;
}

void stopWhileSleeping(const World& world, EventConsumer& consumer) {
  REQUIRE(eventually(20s, [&] {
    return world.database.count(
               "select count(*) from pg_stat_activity where wait_event = 'PgSleep'") == 1;
  }));
  consumer.stop();
}

}  // namespace

TEST_CASE("a handler whose query stop() cancels has not failed, and its event is delivered again") {
  const World world;
  const LogCapture log;
  const auto consumer = hangingConsumer(world, "cancelled", 1);
  consumer->start();
  send(world.exchange, numberedEvents(1, "a"));
  stopWhileSleeping(world, *consumer);
  CHECK(consumer->stats().failed == 0);
  CHECK(log.count("handler failed") == 0);
  CHECK(world.parked() == 0);
  CHECK(world.inbox() == 0);
  CHECK(eventually(20s, [&] { return Servers::mq().queueDepth(consumer->queue()) == 1; }));
}

TEST_CASE("a parked event whose attempt stop() cancels keeps that attempt") {
  const World world;
  const auto consumer = hangingConsumer(world, "cancelled-later", 2);
  consumer->start();
  send(world.exchange, numberedEvents(1, "a"));
  stopWhileSleeping(world, *consumer);
  CHECK(consumer->stats().failed == 1);
  CHECK(world.parked() == 1);
  CHECK(world.database.count("select count(*) from pillion.inbox_parked where attempts = 1 and"
                             " verdict is null and next_attempt_at <= now()") == 1);
}

TEST_CASE("handlers that become slow share no transaction for long, and are applied once") {
  const World world;
  std::atomic<bool> together{false};
  const auto consumer = EventConsumer::create("tiring", {"#"}, world.consumerOptions());
  consumer->onEvent("#", [&](const Event& event, Transaction& tx) {
    writeJournal(event, tx);
    if (event.key() == "gate") eventually(5s, [&] { return together.load(); });
    if (event.key() == "slow") tx.exec("select pg_sleep(0.4)");
  });
  consumer->start();
  send(world.exchange, numberedEvents(500, "quick"));  // these are for large batches
  REQUIRE(eventually(20s, [&] { return world.journal() == 500; }));
  auto events = numberedEvents(1, "gate");
  for (const Event& event : numberedEvents(8, "slow")) events.push_back(event);
  std::jthread opener([&] {
    eventually(5s, [&] { return consumer->stats().delivered == 509; });
    together = true;
  });
  send(world.exchange, events);
  CHECK(eventually(30s, [&] { return world.journal() == 509; }));
  CHECK(world.journalIds() == 509);
  CHECK(numbersOf(world, "slow") == "1 2 3 4 5 6 7 8");
  CHECK(world.database.count("select max(n) from (select count(*) as n from journal"
                             " where key = 'slow' group by xmin::text) t") <= 2);
}

TEST_CASE("the workers of a consumer say together that PostgreSQL is away, and that it is back") {
  const World world;
  const LogCapture log;
  auto options = world.consumerOptions();
  options.workers = 3;
  const auto consumer = journalConsumer(options, "chorus");
  consumer->start();
  const std::string name = "\"" + world.database.name() + "\"";
  Servers::pg().execute("postgres", "alter database " + name + " allow_connections false");
  Servers::pg().execute("postgres",
                        "select pg_terminate_backend(pid) from pg_stat_activity where datname = '" +
                            world.database.name() + "'");
  std::vector<Event> events;
  for (int i = 0; i < 60; ++i) events.push_back(Event("order.placed", 1).setKey(std::to_string(i)));
  send(world.exchange, events);
  REQUIRE(eventually(20s, [&] { return log.count("waits:") >= 1; }));
  CHECK_FALSE(eventually(2s, [&] { return log.count("waits:") > 1; }));
  Servers::pg().execute("postgres", "alter database " + name + " allow_connections true");
  CHECK(eventually(20s, [&] { return world.journal() == 60; }));
  CHECK(eventually(20s, [&] { return log.count("goes on") == 1; }));
}

TEST_CASE(
    "the default isolation level of a database neither strands an event nor reaches handlers") {
  const World world;
  world.database.execute("alter database \"" + world.database.name() +
                         "\" set default_transaction_isolation = 'repeatable read'");
  auto options = world.consumerOptions();
  options.workers = 2;
  std::atomic<int> calls{0};
  std::atomic<int> others{0};
  const auto consumer = EventConsumer::create("isolated", {"#"}, options);
  consumer->onEvent("#", [&](const Event& event, Transaction& tx) {
    if (tx.exec("show transaction_isolation")[0][0].as<std::string>() != "read committed") ++others;
    const int call = isNumber(event, 1, "a") ? ++calls : 0;
    if (call == 1) throw std::runtime_error("to be parked");
    // The second is parked behind the first while that one is tried again.
    if (call == 2) eventually(10s, [&] { return world.parked() == 2; });
    writeJournal(event, tx);
  });
  consumer->start();
  const auto events = numberedEvents(2, "a");
  send(world.exchange, events[0]);
  REQUIRE(eventually(20s, [&] { return calls == 2; }));
  send(world.exchange, events[1]);
  CHECK(eventually(20s, [&] { return world.journal() == 2 && world.parked() == 0; }));
  CHECK(numbersOf(world, "a") == "1 2");
  CHECK(others == 0);
}

TEST_CASE("a handler that hangs elsewhere holds up its own key alone, and is told of") {
  const World world;
  const LogCapture log;
  declareOnly(world, "haunted");
  std::vector<Event> events;
  for (int number = 1; number <= 3; ++number) {
    for (const char* key : {"a", "b", ""}) {
      events.push_back(Event("order.placed", {{"number", number}}).setKey(key));
    }
  }
  auto connection = world.database.connect();
  std::optional<pqxx::work> hanging(connection);
  hanging->exec_params(
      "insert into pillion.inbox (consumer, event_id, source)"
      " values ('haunted.events', $1, 'test')",
      events[0].id());
  send(world.exchange, events);
  const auto consumer = EventConsumer::create("haunted", {"#"}, world.consumerOptions());
  std::atomic<int> limited{0};
  consumer->onEvent("#", [&](const Event& event, Transaction& tx) {
    if (tx.exec("show lock_timeout")[0][0].as<std::string>() != "0") ++limited;
    writeJournal(event, tx);
  });
  consumer->start();
  CHECK(eventually(20s, [&] { return world.journal() == 6; }));
  CHECK(numbersOf(world, "b") == "1 2 3");
  CHECK(numbersOf(world, "a") == "");
  // What comes later goes on, too.
  send(world.exchange, numberedEvents(1, "c"));
  CHECK(eventually(20s, [&] { return numbersOf(world, "c") == "1"; }));
  CHECK(log.count("event " + events[0].id() + " (order.placed) is being applied in another") == 1);
  CHECK(log.count("waits:") == 0);
  hanging.reset();
  CHECK(eventually(20s, [&] { return world.journal() == 10; }));
  CHECK(numbersOf(world, "a") == "1 2 3");
  CHECK(limited == 0);
  CHECK(consumer->stats().failed == 0);
}

TEST_CASE("a batch with a hidden SQL error goes on while another key's event is parked") {
  const World world;
  auto options = world.consumerOptions();
  options.retry = {.maxAttempts = 1'000, .first = 1h, .factor = 1, .most = 1h};
  std::atomic<bool> together{false};
  const auto consumer = EventConsumer::create("undeterred", {"#"}, options);
  consumer->onEvent("#", [&](const Event& event, Transaction& tx) {
    writeJournal(event, tx);
    if (event.key() == "parked") throw std::runtime_error("to be parked");
    if (event.key() == "first") eventually(5s, [&] { return together.load(); });
    if (event.key() == "hides") {
      try {
        tx.exec_params("select 1 / $1::int", 0);
      } catch (const std::exception&) {  // as if all were well
      }
    }
  });
  consumer->start();
  send(world.exchange, numberedEvents(1, "parked"));
  REQUIRE(eventually(20s, [&] { return world.parked() == 1; }));
  std::vector<Event> events;
  for (const char* key : {"first", "hides", "good", "better"}) {
    events.push_back(Event("order.placed", {{"number", 1}}).setKey(key));
  }
  std::jthread opener([&] {
    eventually(5s, [&] { return consumer->stats().delivered == 5; });
    together = true;
  });
  send(world.exchange, events);
  CHECK(eventually(20s, [&] { return world.journal() == 3 && world.parked() == 2; }));
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
    ConsumerProcess first(world, "deadly", "", {"fail=1", "attempts=3"});
    // The first attempt ends well enough to park it; the next ones end the process.
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
    "a consumer killed around a dead letter leaves one or two of it, and applies it no more") {
  for (const std::string site : {"parked.deadLettered", "delivery.deadLettered"}) {
    CAPTURE(site);
    const World world;
    declareOnly(world, "mourning");
    auto nameless = messageOf(numberedEvents(1)[0]);
    nameless.messageId.clear();
    const bool parked = site.starts_with("parked");
    const auto poison = parked ? messageOf(numberedEvents(1, "a")[0]) : nameless;
    send(world.exchange, std::vector<amqp::Message>{poison});
    {
      ConsumerProcess victim(world, "mourning", site + "=kill@1", {"fail=1", "attempts=1"});
      REQUIRE(victim.process().waitFor(20s) == kKilled);
    }
    ConsumerProcess heir(world, "mourning", "", {"fail=1", "attempts=1"});
    CHECK(eventually(20s, [&] {
      return Servers::mq().queueDepth("mourning.events.dead") == 2 && world.parked() == 0;
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
