// What goes wrong around handlers and is not their fault, or is hidden by them: deadlocks, outages,
// stop(), hangs.
#include <semaphore>
#include <thread>

#include "consumer_fixture.hpp"

namespace pillion::test {
namespace {

std::string numbersOf(const World& world, const std::string& key) {
  return world.database.query(
      "select coalesce(string_agg(number::text, ' ' order by position), '') from journal where"
      " key = '" +
      key + "'");
}

}  // namespace

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
                             " next_attempt_at <= now()") == 1);
}

TEST_CASE("a handler that hangs holds up no parked event whose follower came in its batch") {
  const World world;
  auto options = world.consumerOptions();
  options.workers = 2;
  options.retry = {.maxAttempts = 10, .first = 60s, .factor = 1, .most = 60s};
  std::counting_semaphore<> begun{0};
  std::counting_semaphore<> proceed{0};
  std::binary_semaphore hanging{0};
  std::binary_semaphore release{0};
  std::atomic<int> calls{0};
  const auto consumer = EventConsumer::create("hanging-on", {"#"}, options);
  consumer->onEvent("#", [&](const Event& event, Transaction& tx) {
    if (event.key() == "gate") {
      begun.release();
      proceed.acquire();
    }
    if (event.key() == "hangs") {
      hanging.release();
      release.acquire();
    }
    if (event.key() == "a" && calls++ == 0) throw std::runtime_error("to be parked");
    writeJournal(event, tx);
  });
  consumer->start();
  const auto key = numberedEvents(2, "a");
  send(world.exchange, key[0]);
  REQUIRE(eventually(20s, [&] { return world.parked() == 1; }));
  // One worker is kept busy by a handler, which makes its batches small; the other waits a second
  // for an id, which does not. So it gets the next two as one batch.
  send(world.exchange, numberedEvents(1, "gate"));
  begun.acquire();
  const auto blocked = numberedEvents(1, "blocked");
  pqxx::connection connection(world.database.url());
  pqxx::work claiming(connection);
  claiming.exec("insert into pillion.inbox (consumer, event_id, source) values ('" +
                consumer->queue() + "', '" + blocked[0].id() + "', 'test')");
  world.database.execute(
      "update pillion.inbox_parked set next_attempt_at = now() + interval '4 s'");
  send(world.exchange, blocked);
  REQUIRE(eventually(20s, [&] { return consumer->stats().delivered == 3; }));
  send(world.exchange, std::vector{key[1], numberedEvents(1, "hangs")[0]});
  hanging.acquire();
  claiming.abort();
  CHECK(eventually(5s, [&] { return world.parked() == 2; }));  // it is committed already
  proceed.release();
  send(world.exchange, numberedEvents(10, "other"));
  CHECK(eventually(10s, [&] { return world.journal() == 14; }));  // all but that one
  CHECK(world.parked() == 0);
  release.release();
  CHECK(eventually(10s, [&] { return world.journal() == 15; }));
  CHECK(world.ordered());
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
  // The third begins before a second is over.
  CHECK(world.database.count("select max(n) from (select count(*) as n from journal"
                             " where key = 'slow' group by xmin::text) t") <= 3);
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
    const int call = event.data().at("number") == 1 ? ++calls : 0;
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

TEST_CASE("a handler that loses its own session again and again fails like any other") {
  for (const std::string text :
       {"select pg_terminate_backend(pg_backend_pid())",
        "set idle_in_transaction_session_timeout = '1ms'; select pg_sleep(0)",
        "do $$ begin raise exception using errcode = '53200', message = 'out of shared memory';"
        " end $$",
        "do $$ begin raise exception using errcode = '58P01', message = 'no such file'; end $$"}) {
    CAPTURE(text);
    const World world;
    const LogCapture log;
    declareOnly(world, "suicidal");
    std::vector<Event> events{Event("order.placed", {{"number", 1}}).setKey("bad")};
    for (const char* key : {"bad too", "a", "b", "c"}) {
      events.push_back(Event("order.placed", {{"number", 1}}).setKey(key));
    }
    events.push_back(Event("order.placed", {{"number", 2}}).setKey("bad"));
    send(world.exchange, events);
    auto options = world.consumerOptions();
    options.broker.reconnectFirst = 10ms;
    options.broker.reconnectMost = 50ms;
    const auto consumer = EventConsumer::create("suicidal", {"#"}, options);
    std::atomic<int> calls{0};
    consumer->onEvent("#", [&](const Event& event, Transaction& tx) {
      writeJournal(event, tx);
      if (!event.key().starts_with("bad") || event.data()["number"] != 1) return;
      ++calls;
      tx.exec(text);
      std::this_thread::sleep_for(20ms);  // idle in its transaction: that is the case
    });
    consumer->start();
    CHECK(eventually(60s, [&] { return consumer->stats().deadLettered == 2; }));
    CHECK(eventually(20s, [&] { return world.journal() == 4 && world.parked() == 0; }));
    CHECK(world.journalIds() == 4);
    CHECK(calls >= 18);  // three for each of the attempts
    CHECK(calls <= 30);
    CHECK(log.count("its handler has lost the database 3 times") >= 6);
    for (const auto& letter : readDeadLetters(consumer->queue(), 2)) {
      CHECK(header(letter, "pillion-dead-reason") == "handler-failed");
      CHECK(header(letter, "pillion-dead-attempts") == "3");
    }
  }
}

TEST_CASE("many keys that a hung batch holds elsewhere hold up no other key") {
  const World world;
  declareOnly(world, "besieged");
  std::vector<Event> held;
  for (const char* key : {"a", "b", "c", "d", ""}) {
    held.push_back(Event("order.placed", {{"number", 1}}).setKey(key));
  }
  auto connection = world.database.connect();
  std::optional<pqxx::work> hanging(connection);
  for (const Event& event : held) {
    hanging->exec_params(
        "insert into pillion.inbox (consumer, event_id, source)"
        " values ('besieged.events', $1, 'test')",
        event.id());
  }
  send(world.exchange, held);
  const auto consumer = journalConsumer(world, "besieged");  // one worker
  consumer->start();
  for (int round = 1; round <= 4; ++round) {
    std::vector<Event> healthy;
    for (int i = 0; i < 5; ++i) {
      healthy.push_back(
          Event("order.placed", {{"number", round}}).setKey("healthy" + std::to_string(i)));
    }
    healthy.push_back(Event("order.placed", {{"number", 1 + round}}).setKey("a"));
    send(world.exchange, healthy);
    CHECK(eventually(20s, [&] { return world.journal() == 5 * round; }));
  }
  CHECK(numbersOf(world, "a") == "");
  hanging.reset();
  CHECK(eventually(60s, [&] { return world.journal() == 29; }));
  CHECK(world.journalIds() == 29);
  CHECK(world.ordered());
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

}  // namespace pillion::test
