#define PILLION_TEST_MAIN
#include <future>
#include <optional>
#include <outbox/postgres_event_log.hpp>
#include <thread>

#include "fixture.hpp"
#include "support/tcp_gate.hpp"

// What goes wrong around a relay, and must not cost events or leave some of them lying.

using namespace pillion;
using namespace pillion::test;

namespace {

std::vector<Event> oneForEachLane(const std::string& type) {
  std::vector<Event> events;
  for (int key = 0; key < 600; ++key) {  // 64 lanes are not missed by so many keys
    events.push_back(Event(type, {{"key", key}}).setKey("key-" + std::to_string(key)));
  }
  return events;
}

outbox::EventLogOptions logOptions(const TestDatabase& database, const std::string& name) {
  return {.database = database.options(), .relayName = name, .lease = 60s, .pageBytes = 1U << 20};
}

bool moveCursor(outbox::PostgresEventLog& log, const outbox::Cursor& cursor) {
  outbox::Checkpoint checkpoint;
  checkpoint.cursor = cursor;
  checkpoint.cursorMoved = true;
  return taken(log, checkpoint);
}

std::string positions(const TestDatabase& database) {
  return database.query(
      "select string_agg(p::text, ',' order by lane) from pillion.lane_position p");
}

}  // namespace

TEST_CASE("when all relays were cut off from the broker for longer than a lease, no lane is left") {
  TestDatabase database;
  const std::string exchange = uniqueName("exchange");
  TestQueue queue(exchange);
  support::TcpGate gate(Servers::mq().port());
  const auto relay = [&](const std::string& name) {
    auto options = relayOptions(database, exchange);
    options.name = name;
    options.lease = 3s;
    options.renewEvery = 500ms;
    options.broker.url = "amqp://guest:guest@127.0.0.1:" + std::to_string(gate.port());
    auto made = Relay::create(options);
    made->start();
    return made;
  };
  const auto first = relay("first");
  REQUIRE(eventually(15s, [&] { return lanesPerHolder(database)["first"] == 64; }));
  const auto second = relay("second");
  REQUIRE(eventually(15s, [&] { return lanesPerHolder(database)["second"] == 32; }));
  gate.refuse();
  gate.cut();
  // One of them gives its lanes back after a lease, since the other might reach the broker.
  REQUIRE(eventually(30s, [&] { return lanesPerHolder(database)[""] == 32; }));
  // The other has looked as well by then, and must not have taken them without a broker.
  CHECK(eventually(10s, [&] {
    return database.count(
               "select count(*) from pillion.relay where expires_at >"
               " clock_timestamp() + interval '2 s'") >= 1;
  }));
  CHECK(lanesPerHolder(database)[""] == 32);
  gate.pass();
  REQUIRE(eventually(30s, [&] {
    const auto now = lanesPerHolder(database);
    return now.contains("first") && now.contains("second") && !now.contains("") &&
           now.at("first") == 32;
  }));
  const auto publisher = EventPublisher::create("s", {.database = database.options()});
  auto connection = database.connect();
  pqxx::work tx{connection};
  publisher->publish(tx, oneForEachLane("after"));
  tx.commit();
  CHECK(queue.read(600).size() == 600);
  CHECK(eventually(10s, [&] { return drained(database); }));
}

TEST_CASE("a queue that was full is healthy again while its events go on coming fast") {
  RelayedOutbox outbox;
  const std::string exchange = outbox.exchange;
  amqp::Connection connection(brokerOptions(exchange), "test");
  const std::string full = uniqueName("full");
  connection.declareQueue({.name = full,
                           .textArguments = {{"x-overflow", "reject-publish"}},
                           .numberArguments = {{"x-max-length", 1}}});
  connection.bindQueue(full, exchange, "#");
  outbox.relay->start();
  const std::jthread writer([&](const std::stop_token& stop) {
    for (int burst = 0; !stop.stop_requested(); ++burst) {
      const auto next = std::chrono::steady_clock::now() + 20ms;
      std::vector<Event> events;
      for (int i = 0; i < 20; ++i) {
        events.push_back(Event("t", {{"n", burst}}).setKey("k" + std::to_string(i)));
      }
      auto database = outbox.database.connect();
      pqxx::work tx{database};
      outbox.publisher->publish(tx, events);
      tx.commit();
      std::this_thread::sleep_until(next);
    }
  });
  REQUIRE(
      eventually(20s, [&] { return readOutboxStatus(outbox.database.options()).parked > 500; }));
  Servers::mq().ctl({"delete_queue", full});
  // As long as the writer writes, nothing would come to an end that only catches up.
  CHECK(eventually(
      60s, [&] { return outbox.database.query("select count(*) from pillion.parked") == "0"; }));
  const auto nacked = outbox.relay->stats().nacked;
  CHECK(holdsFor(
      1s, [&] { return outbox.database.query("select count(*) from pillion.parked") == "0"; }));
  CHECK(outbox.relay->stats().nacked == nacked);
}

TEST_CASE("a relay that may not park loses nothing: it waits, says why, and parks when it may") {
  TestDatabase database;
  const std::string exchange = uniqueName("exchange");
  TestQueue heard(exchange, "heard");
  const auto publisher = EventPublisher::create("s", {.database = database.options()});
  const std::string role = uniqueName("half_relay");
  database.execute("create role \"" + role + "\" login password 'secret'");
  database.execute("grant usage on schema pillion to \"" + role +
                   "\"; grant all on all tables in schema pillion to \"" + role +
                   "\"; grant all on all sequences in schema pillion to \"" + role +
                   "\"; revoke insert on pillion.parked from \"" + role + "\"");
  auto options = relayOptions(database, exchange);
  options.database.url = Servers::pg().urlAs(role, "secret", database.name());
  const auto relay = Relay::create(options);
  relay->start();
  publisher->publish(Event("lonely", {{"n", 1}}).setKey("k"));
  publisher->publish(Event("heard", {{"n", 2}}).setKey("k"));
  // Several sessions have failed over it by then; the cursor stays before the event.
  CHECK(eventually(20s, [&] { return relay->stats().unroutable >= 3; }));
  CHECK(readOutboxStatus(database.options()).pending == 2);
  database.execute("grant insert on pillion.parked to \"" + role + "\"");
  CHECK(eventually(20s, [&] {
    return database.query("select string_agg(reason, ' ') from pillion.parked") == "unroutable";
  }));
  CHECK(eventually(20s, [&] { return readOutboxStatus(database.options()).pending == 0; }));
  TestQueue lonely(exchange, "lonely");
  CHECK(lonely.read(1).size() == 1);
  CHECK(!heard.read(1).empty());
}

TEST_CASE("a routing key that the broker forbids is parked, the others go out") {
  TestDatabase database;
  const std::string exchange = uniqueName("exchange");
  TestQueue queue(exchange);
  Servers::mq().addUser("topical", "secret", ".*", ".*", ".*");
  Servers::mq().ctl({"set_topic_permissions", "topical", exchange, "^allowed", ".*"});
  const auto publisher = EventPublisher::create("s", {.database = database.options()});
  auto connection = database.connect();
  pqxx::work tx{connection};
  for (int n = 0; n < 100; ++n) {
    publisher->publish(tx, Event(n == 50 ? "forbidden" : "allowed", {{"n", n}}));
  }
  tx.commit();
  auto options = relayOptions(database, exchange);
  options.broker.url = Servers::mq().url("topical", "secret");
  options.refusedFirst = 300ms;
  const auto relay = Relay::create(options);
  relay->start();
  std::set<std::string> arrived;
  CHECK(eventually(20s, [&] {
    for (const auto& message : queue.readFor(100ms)) arrived.insert(message.messageId);
    return arrived.size() == 99;
  }));
  CHECK(eventually(20s, [&] {
    return database.query("select string_agg(type || ' ' || reason, ',') from pillion.parked") ==
           "forbidden forbidden";
  }));
  Servers::mq().ctl({"set_topic_permissions", "topical", exchange, ".*", ".*"});
  CHECK(eventually(20s, [&] {
    for (const auto& message : queue.readFor(100ms)) arrived.insert(message.messageId);
    return arrived.size() == 100;
  }));
}

TEST_CASE("a log whose relay was fenced, or whose server changed, writes and reads nothing more") {
  TestDatabase database;
  const auto publisher = EventPublisher::create("s", {.database = database.options()});
  outbox::PostgresEventLog log(logOptions(database, "one"));
  outbox::Cursor cursor = log.balance().taken;
  CHECK(cursor.lanes() == outbox::kAllLanes);
  auto connection = database.connect();
  pqxx::work tx{connection};
  publisher->publish(tx, oneForEachLane("many"));
  tx.commit();
  auto page = log.fetch(cursor, 10);
  CHECK(page.rows.size() == 10);
  CHECK(moveCursor(log, page.after));
  const std::string before = positions(database);
  page = log.fetch(page.after, 10);
  // As when a pooler has turned to a promoted standby.
  database.execute(
      "create or replace function pillion.server_state() returns text language sql as"
      " $$ select 'another'::text $$");
  CHECK_THROWS_AS(moveCursor(log, page.after), DatabaseError);
  CHECK_THROWS_AS(log.fetch(page.after, 10), DatabaseError);
  CHECK(positions(database) == before);
}

TEST_CASE("lanes that got no further keep the count of relays that ended over them") {
  TestDatabase database;
  const auto endings = [&](int lane) {
    return database.count("select crashes from pillion.lane where lane = " + std::to_string(lane));
  };
  for (int death = 0; death < 6; ++death) {
    outbox::PostgresEventLog log(logOptions(database, "mortal"));
    const outbox::Balance balance = log.balance();
    REQUIRE(balance.taken.lanes() == outbox::kAllLanes);
    CHECK(endings(0) == death);
    CHECK(balance.crashes == death);
    CHECK((balance.endangered != 0) == (death >= outbox::kCrashesToSuspect));
    if (balance.endangered != 0) {
      // What three of them noted last, and nothing else; lane 63 has got further each time.
      const bool enough = death > outbox::kDeathsToBlame;
      CHECK(balance.suspects == (enough ? std::set<std::int64_t>{42} : std::set<std::int64_t>{}));
      CHECK(balance.endangered == (outbox::kAllLanes & ~outbox::laneBit(63)));
    }
    log.noteInHand(41);
    log.noteInHand(death == 0 ? 77 : 42);
    outbox::Cursor cursor = balance.taken;
    outbox::Cursor last = cursor.take(outbox::laneBit(63));
    outbox::Cursor moved = log.fetch(last, 10).after;
    database.execute("select pg_current_xact_id()");  // or the next snapshot is the same
    moved.add(cursor);
    CHECK(moveCursor(log, moved));
    CHECK(endings(63) == 0);
  }
}

TEST_CASE("a relay that enters again after losing its database session is no crash of its own") {
  TestDatabase database;
  std::int64_t former = 0;
  for (int session = 0; session < 5; ++session) {
    auto options = logOptions(database, "returning");
    options.formerToken = former;
    outbox::PostgresEventLog log(options);
    CHECK(log.balance().crashes == 0);
    former = log.token();
  }
}

TEST_CASE("without the fence, the end of a relay's database session alone moves no lane") {
  TestDatabase database;
  auto options = logOptions(database, "unfenced");
  options.endsWithSession = false;
  {
    outbox::PostgresEventLog unfenced(options);
    CHECK(unfenced.balance().taken.lanes() == outbox::kAllLanes);
  }  // its session has ended; the process may still be sending
  outbox::PostgresEventLog other(logOptions(database, "other"));
  CHECK(other.balance().taken.lanes() == 0);
  database.execute("update pillion.relay set expires_at = now() where name = 'unfenced'");
  CHECK(other.balance().taken.lanes() == outbox::kAllLanes);
}

TEST_CASE("a relay that was fenced takes no free lanes") {
  TestDatabase database;
  outbox::PostgresEventLog zombie(logOptions(database, "zombie"));
  CHECK(zombie.balance().taken.lanes() == outbox::kAllLanes);
  database.execute("update pillion.relay set fenced = true; update pillion.lane set token = null");
  CHECK(zombie.balance().taken.lanes() == 0);
}

TEST_CASE("a lane that was taken since another relay began to take lanes stays with its taker") {
  TestDatabase database;
  const std::string role = uniqueName("late");
  database.execute("create role \"" + role + "\" login password 'secret'");
  database.execute("grant usage on schema pillion to \"" + role +
                   "\"; grant all on all tables in schema pillion to \"" + role +
                   "\"; grant all on all sequences in schema pillion to \"" + role + "\"");
  outbox::PostgresEventLog early(logOptions(database, "early"));
  auto options = logOptions(database, "late");
  options.database.url = Servers::pg().urlAs(role, "secret", database.name());
  outbox::PostgresEventLog late(options);
  // The statement with which this role takes lanes waits once it has begun, before it looks at one:
  // what is taken then was not yet when it began.
  database.execute(
      "create function public.hold_up() returns boolean language plpgsql as $$ begin if"
      " session_user = '" +
      role +
      "' and current_query() like '%with free%' then perform"
      " pg_advisory_xact_lock_shared(7); end if; return true; end $$;"
      " alter table pillion.relay rename to relay_itself;"
      " create view pillion.relay as select * from pillion.relay_itself where public.hold_up();"
      " grant all on pillion.relay to \"" +
      role + "\"");
  std::future<outbox::Lanes> takenLate;
  auto connection = database.connect();
  std::optional<pqxx::work> gate(connection);
  gate->exec("select pg_advisory_xact_lock(7)");
  takenLate = std::async(std::launch::async, [&] { return late.balance().taken.lanes(); });
  CHECK(eventually(10s, [&] {
    return database.count(
               "select count(*) from pg_locks where locktype = 'advisory' and not granted") == 1;
  }));
  const outbox::Cursor mine = early.balance().taken;
  CHECK(mine.lanes() == outbox::kAllLanes);
  gate.reset();
  CHECK(takenLate.get() == 0);
  CHECK(moveCursor(early, early.fetch(mine, 10).after));
}
