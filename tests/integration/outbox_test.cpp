#define PILLION_TEST_MAIN
#include <fstream>
#include <outbox/postgres_event_log.hpp>
#include <set>

#include "fixture.hpp"
#include "support/sanitized.hpp"

// What the outbox promises to the service that writes it, and to the relay that reads it.

using namespace pillion;
using namespace pillion::test;

namespace {

Event created(int n) {
  return Event("product.created", {{"n", n}}).setKey("sku-" + std::to_string(n % 7));
}

int numberIn(const amqp::Message& message) {
  return nlohmann::json::parse(message.body).at("n").get<int>();
}

std::vector<int> numbersIn(const std::vector<amqp::Message>& messages) {
  std::vector<int> numbers;
  for (const auto& message : messages) numbers.push_back(numberIn(message));
  return numbers;
}

using Setup = RelayedOutbox;

}  // namespace

TEST_CASE("a rolled-back transaction publishes nothing, a committed one its event") {
  Setup setup;
  setup.relay->start();
  auto connection = setup.database.connect();
  {
    pqxx::work tx{connection};
    setup.publisher->publish(tx, created(1));
    tx.abort();
  }
  {
    pqxx::work tx{connection};
    setup.publisher->publish(tx, created(2));
    tx.commit();
  }
  const auto messages = setup.queue.read(1);
  REQUIRE(messages.size() == 1);
  CHECK(numberIn(messages[0]) == 2);
  REQUIRE(eventually(10s, [&] { return drained(setup.database); }));
  CHECK(setup.queue.readFor(200ms).empty());
  CHECK(setup.relay->stats().published == 1);
}

TEST_CASE(
    "an event that commits late, with a lower id than one already published, is not skipped") {
  Setup setup;
  setup.relay->start();
  auto slow = setup.database.connect();
  auto quick = setup.database.connect();
  pqxx::work slowTx{slow};
  setup.publisher->publish(slowTx, created(1));  // takes the lower id
  for (int n = 2; n <= 40; ++n) {
    pqxx::work tx{quick};
    setup.publisher->publish(tx, created(n));
    tx.commit();
  }
  const auto before = setup.queue.read(39);
  CHECK(before.size() == 39);
  // The cursor must have been stored with the slow transaction still in progress.
  REQUIRE(eventually(10s, [&] { return drained(setup.database); }));
  slowTx.commit();
  const auto late = setup.queue.read(1);
  REQUIRE(late.size() == 1);
  CHECK(numberIn(late[0]) == 1);
}

TEST_CASE("a late commit is found by a relay that was started after the cursor had passed it") {
  Setup setup;
  auto slow = setup.database.connect();
  pqxx::work slowTx{slow};
  setup.publisher->publish(slowTx, created(1));
  setup.relay->start();
  setup.publisher->publish(created(2));
  REQUIRE(setup.queue.read(1).size() == 1);
  setup.relay->stop();
  slowTx.commit();
  setup.relay = Relay::create(relayOptions(setup.database, setup.exchange));
  setup.relay->start();
  const auto late = setup.queue.read(1);
  REQUIRE(late.size() == 1);
  CHECK(numberIn(late[0]) == 1);
  CHECK(setup.queue.readFor(300ms).empty());
}

TEST_CASE("events in a savepoint that is rolled back are not published, those around it are") {
  Setup setup;
  setup.relay->start();
  auto connection = setup.database.connect();
  pqxx::work tx{connection};
  setup.publisher->publish(tx, created(1));
  {
    pqxx::subtransaction savepoint{tx, "s"};
    savepoint.exec("");  // libpqxx 6 begins it with the first exec
    setup.publisher->publish(savepoint, created(2));
    savepoint.abort();
  }
  setup.publisher->publish(tx, created(3));
  tx.commit();
  CHECK(numbersIn(setup.queue.read(2)) == std::vector<int>{1, 3});
  CHECK(setup.queue.readFor(200ms).empty());
}

TEST_CASE("a transaction prepared for two-phase commit is published when it is committed") {
  Setup setup;
  setup.relay->start();
  auto connection = setup.database.connect();
  {
    pqxx::nontransaction raw{connection};
    raw.exec("begin");
    raw.exec(
        "insert into pillion.outbox (event_id, type, source, time, content_type, payload)"
        " values (gen_random_uuid(), 'a.b', 's', now(), 'application/json', '{\"n\":7}')");
    raw.exec("prepare transaction 'later'");
  }
  setup.publisher->publish(created(8));
  CHECK(numbersIn(setup.queue.read(1)) == std::vector<int>{8});
  setup.database.execute("commit prepared 'later'");
  CHECK(numbersIn(setup.queue.read(1)) == std::vector<int>{7});
}

TEST_CASE("prepared transactions: due events follow, what is rolled back never comes, in order") {
  Setup setup;
  setup.relay->start();
  const auto prepare = [&](const std::string& name, const std::string& statements) {
    setup.database.execute("begin; " + statements + "; prepare transaction '" + name + "'");
  };
  const auto numbered = [](int n, const std::string& more = "") {
    return "select pillion.publish('a.b', '{\"n\":" + std::to_string(n) +
           "}', source => 's', key => 'k'" + more + ")";
  };
  const std::string kept = uniqueName("kept");
  const std::string dropped = uniqueName("dropped");
  prepare(kept, numbered(1) + "; " + numbered(2, ", deliver_at => now()") + "; " + numbered(3));
  prepare(dropped, numbered(4) + "; " + numbered(5, ", deliver_at => now()"));
  setup.database.execute(numbered(6));
  CHECK(numbersIn(setup.queue.read(1)) == std::vector<int>{6});
  CHECK(setup.queue.readFor(300ms).empty());
  setup.database.execute("rollback prepared '" + dropped + "'");
  setup.database.execute("commit prepared '" + kept + "'");
  CHECK(numbersIn(setup.queue.read(3)) == std::vector<int>{1, 3, 2});
  CHECK(setup.queue.readFor(300ms).empty());
}

TEST_CASE("a prepared transaction outlives a crash of PostgreSQL, and then its events come") {
  Setup setup;
  setup.relay->start();
  const std::string name = uniqueName("lasting");
  setup.database.execute(
      "begin; select pillion.publish('a.b', '{\"n\":7}', source => 's'); prepare transaction '" +
      name + "'");
  setup.publisher->publish(created(8));
  CHECK(numbersIn(setup.queue.read(1)) == std::vector<int>{8});
  Servers::pg().kill();
  Servers::pg().start();
  setup.publisher->publish(created(9));
  std::set<int> arrived;  // what was published may come again after a crash
  const auto arrives = [&](int number) {
    return eventually(20s, [&] {
      for (const int n : numbersIn(setup.queue.readFor(100ms))) arrived.insert(n);
      return arrived.contains(number);
    });
  };
  CHECK(arrives(9));
  CHECK_FALSE(arrived.contains(7));
  setup.database.execute("commit prepared '" + name + "'");
  CHECK(arrives(7));
}

TEST_CASE(
    "with the trigger that was insisted on, preparing fails as a whole, or works as a whole") {
  Setup setup;
  setup.database.execute("select pillion.enable_notify(true)");
  auto options = relayOptions(setup.database, setup.exchange);
  options.notify = true;
  const auto relay = Relay::create(options);
  relay->start();
  const auto sleeps = [&] {
    return setup.database.count("select last_value from pillion.idle_flag") == 1;
  };
  REQUIRE(eventually(20s, sleeps));
  const std::string transaction =
      "begin; select pillion.publish('a.b', '{\"n\":1}', source => 's'); prepare transaction '" +
      uniqueName("insisted") + "'";
  CHECK_THROWS_WITH(setup.database.execute(transaction), doctest::Contains("NOTIFY"));
  CHECK(setup.database.count("select count(*) from pillion.outbox") == 0);
  CHECK(setup.database.count("select count(*) from pg_prepared_xacts") == 0);
  setup.database.execute("select pillion.disable_notify()");
  CHECK_NOTHROW(setup.database.execute(transaction));
  const std::string name = setup.database.query("select gid from pg_prepared_xacts");
  setup.database.execute("commit prepared '" + name + "'");
  CHECK(numbersIn(setup.queue.read(1)) == std::vector<int>{1});
}

TEST_CASE("many events in one call keep their order and need few statements") {
  Setup setup;
  std::vector<Event> events;
  for (int n = 0; n < 333; ++n) {
    events.push_back(Event("product.created", {{"n", n}}).setKey("one key"));
  }
  auto connection = setup.database.connect();
  pqxx::work tx{connection};
  setup.publisher->publish(tx, events);
  tx.commit();
  setup.relay->start();
  const auto numbers = numbersIn(setup.queue.read(333));
  REQUIRE(numbers.size() == 333);
  CHECK(std::is_sorted(numbers.begin(), numbers.end()));
}

TEST_CASE("a backlog of many pages is paged in order per key and nothing is left or repeated") {
  Setup setup;
  auto options = relayOptions(setup.database, setup.exchange);
  options.pageEvents = 50;
  options.windowEvents = 20;
  setup.relay = Relay::create(options);
  constexpr int kEvents = 2'000;
  auto connection = setup.database.connect();
  for (int n = 0; n < kEvents; n += 10) {
    std::vector<Event> events;
    for (int i = n; i < n + 10; ++i) events.push_back(created(i));
    pqxx::work tx{connection};
    setup.publisher->publish(tx, events);
    tx.commit();
  }
  setup.relay->start();
  const auto messages = setup.queue.read(kEvents);
  REQUIRE(messages.size() == kEvents);
  std::vector<int> last(7, -1);
  for (const int n : numbersIn(messages)) {
    CHECK(n > last[static_cast<std::size_t>(n % 7)]);
    last[static_cast<std::size_t>(n % 7)] = n;
  }
  REQUIRE(eventually(10s, [&] { return drained(setup.database); }));
  CHECK(setup.queue.readFor(200ms).empty());
}

namespace {

/// One transaction, one key.
void publishLarge(const Setup& setup, int events, std::size_t bytes) {
  auto connection = setup.database.connect();
  pqxx::work tx{connection};
  for (int n = 0; n < events; ++n) {
    setup.publisher->publish(
        tx, Event("product.created", {{"n", n}, {"text", std::string(bytes, 'x')}}).setKey("k"));
  }
  tx.commit();
}

/// Highest memory of a process so far.
long peakRssMib(const support::Process& process) {
  std::ifstream status("/proc/" + std::to_string(process.pid()) + "/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) return std::stol(line.substr(6)) / 1024;
  }
  return -1;
}

}  // namespace

TEST_CASE("large payloads are paged by bytes, and arrive in order") {
  Setup setup;
  auto options = relayOptions(setup.database, setup.exchange);
  options.pageBytes = 300'000;
  options.windowBytes = 150'000;
  setup.relay = Relay::create(options);
  publishLarge(setup, 30, 100'000);
  setup.relay->start();
  const auto numbers = numbersIn(setup.queue.read(30));
  REQUIRE(numbers.size() == 30);
  CHECK(std::is_sorted(numbers.begin(), numbers.end()));
  CHECK(setup.relay->stats().pages >= 10);  // three to a page; without the limit there were one
}

TEST_CASE("a read ends with the row that reaches the limit of bytes, and the next goes on there") {
  Setup setup;
  publishLarge(setup, 10, 100'000);
  outbox::PostgresEventLog log({.database = setup.database.options(),
                                .relayName = "reader",
                                .lease = 60s,
                                .pageBytes = 300'000});
  outbox::Cursor at = log.balance().taken;
  std::vector<std::size_t> pages;
  std::set<std::int64_t> ids;
  for (bool more = true; more && pages.size() < 20;) {
    const outbox::Page page = log.fetch(at, 500);
    if (!page.rows.empty()) pages.push_back(page.rows.size());
    for (const Row& row : page.rows) ids.insert(row.id);
    at = page.after;
    more = page.more || !page.rows.empty();
  }
  CHECK(pages == std::vector<std::size_t>{3, 3, 3, 1});
  CHECK(ids.size() == 10);
}

TEST_CASE("a backlog of large events does not make the relay's memory large") {
  Setup setup;
  constexpr int kEvents = 300;
  for (int n = 0; n < kEvents; n += 20) publishLarge(setup, 20, 1U << 20);
  auto relay = startRelayProcess(setup.database, setup.exchange, "", {"--window", "20"});
  std::size_t arrived = 0;
  CHECK(eventually(60s, [&] {
    arrived += setup.queue.readFor(50ms).size();
    return arrived >= kEvents;
  }));
  const long mib = peakRssMib(relay);
  MESSAGE(mib << " MiB at most for " << kEvents << " events of 1 MiB");
  CHECK(mib > 0);
  // Two pages of 8 MiB, one of them as PostgreSQL's text, a window of 4 MiB.
  CHECK_UNARY(mib < 120 || support::kSanitized);
  CHECK(relay.terminate(15s) == 0);
}

TEST_CASE("every attribute of an event survives the way through table and wire") {
  Setup setup;
  setup.relay->start();
  Event event("order.paid", {{"total", 12.5}, {"text", "grüße \"x\" \\ \u2603"}});
  event.setKey("order-1").setCorrelationId("corr").setCausationId("cause");
  event.setTrace("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "vendor=1");
  event.setHeader("tenant", "acme \"quoted\"");
  setup.publisher->publish(event);
  const auto messages = setup.queue.read(1);
  REQUIRE(messages.size() == 1);
  const auto& message = messages[0];
  CHECK(message.messageId == event.id());
  CHECK(message.type == "order.paid");
  CHECK(message.routingKey == "order.paid");
  CHECK(message.appId == "test-service");
  CHECK(message.timestamp > 1'600'000'000);
  const auto decoded = amqp::eventFrom(message);
  REQUIRE(std::holds_alternative<Event>(decoded));
  const Event& back = std::get<Event>(decoded);
  CHECK(back.id() == event.id());
  CHECK(back.data() == event.data());
  CHECK(back.key() == "order-1");
  CHECK(back.source() == "test-service");
  CHECK(back.correlationId() == "corr");
  CHECK(back.causationId() == "cause");
  CHECK(back.traceparent() == event.traceparent());
  CHECK(back.tracestate() == "vendor=1");
  CHECK(back.headers() == event.headers());
  CHECK(std::chrono::floor<std::chrono::microseconds>(back.time()) ==
        std::chrono::floor<std::chrono::microseconds>(event.time()));
}

TEST_CASE("bytes that are no JSON travel untouched") {
  Setup setup;
  setup.relay->start();
  std::string bytes;
  for (int i = 0; i < 1'000; ++i) bytes += static_cast<char>(i);
  setup.publisher->publish(Event::ofBytes("image.made", bytes, "image/png"));
  const auto messages = setup.queue.read(1);
  REQUIRE(messages.size() == 1);
  CHECK(messages[0].body == bytes);
  CHECK(messages[0].contentType == "image/png");
}

TEST_CASE("an invalid event is refused before anything is written, and the transaction lives on") {
  Setup setup;
  auto connection = setup.database.connect();
  pqxx::work tx{connection};
  const std::vector<Event> events{created(1), Event("bad type", nullptr), created(3)};
  CHECK_THROWS_AS(setup.publisher->publish(tx, events), InvalidEvent);
  setup.publisher->publish(tx, created(4));
  tx.commit();
  CHECK(setup.database.count("select count(*) from pillion.outbox") == 1);
}

TEST_CASE("publishing works on a connection per call, with and without prepared statements") {
  Setup setup;
  const auto plain = EventPublisher::create(
      "plain", {.database = setup.database.options(), .preparedStatements = false});
  for (int n = 0; n < 30; ++n) {
    auto connection = setup.database.connect();
    pqxx::work tx{connection};
    setup.publisher->publish(tx, created(n));
    setup.publisher->publish(tx, created(n));
    plain->publish(tx, created(n));
    tx.commit();
  }
  CHECK(setup.database.count("select count(*) from pillion.outbox") == 90);
}

TEST_CASE("publish(event) survives the loss of its idle connection") {
  Setup setup;
  setup.publisher->publish(created(1));
  setup.database.execute(
      "select pg_terminate_backend(pid) from pg_stat_activity where application_name ="
      " 'pillion publisher'");
  setup.publisher->publish(created(2));
  CHECK(setup.database.count("select count(*) from pillion.outbox") == 2);
}

TEST_CASE("a row that no publisher would write is refused when it is too long, else parked") {
  Setup setup;
  const auto insert = [&](const std::string& type, const std::string& key) {
    setup.database.execute(
        "insert into pillion.outbox (event_id, type, source, key, time,"
        " content_type, payload) values (gen_random_uuid(), " +
        type + ", 's', " + key + ", now(), 'application/json', '{}')");
  };
  CHECK_NOTHROW(insert("'a.b'", "'k'"));
  CHECK_THROWS(insert("repeat('a', 256)", "'k'"));
  CHECK_THROWS(insert("'a.b'", "repeat('k', 256)"));
  CHECK_NOTHROW(insert("''", "'k'"));
  CHECK_NOTHROW(insert("'a.b'", "repeat('\u00e4', 255)"));  // 255 characters, 510 bytes
  setup.relay->start();
  CHECK(setup.queue.read(1).size() == 1);
  CHECK(eventually(10s, [&] {
    return setup.database.query("select string_agg(reason, ',') from pillion.parked") ==
           "invalid,invalid";
  }));
}

TEST_CASE("a row with headers that cannot be sent is parked as invalid and the next one goes on") {
  Setup setup;
  setup.database.execute(
      "insert into pillion.outbox (event_id, type, source, time, content_type, headers, payload)"
      " values (gen_random_uuid(), 'a.b', 's', now(), 'application/json',"
      " json_build_object(repeat('h', 300), 'x'), '{}')");
  setup.publisher->publish(created(5));
  setup.relay->start();
  CHECK(numbersIn(setup.queue.read(1)) == std::vector<int>{5});
  CHECK(eventually(10s, [&] {
    return setup.database.query("select string_agg(reason, ',') from pillion.parked") == "invalid";
  }));
}

TEST_CASE("a relay on a copy of the database in another cluster refuses to skip events") {
  Setup setup;
  setup.database.execute("update pillion.meta set system_identifier = 42");
  CHECK_THROWS_AS(setup.relay->start(), SchemaError);
}

TEST_CASE("a ring child is emptied once its events are published, and not before") {
  Setup setup;
  setup.publisher->publish(created(1));
  setup.database.execute("select setval('pillion.outbox_id_seq', (1 << 22) + 5)");
  setup.publisher->publish(created(2));
  const std::string truncate = "select pillion.truncate_published(0)";
  CHECK(setup.database.query(truncate) == "unpublished");
  CHECK(setup.database.query("select pillion.truncate_published(1)") == "current");
  setup.relay->start();
  CHECK(setup.queue.read(2).size() == 2);
  setup.relay->stop();
  {
    auto writer = setup.database.connect();
    pqxx::work tx{writer};
    tx.exec("select 1 from pillion.outbox_0");
    CHECK(setup.database.query(truncate) == "busy");
  }
  CHECK(setup.database.query(truncate) == "truncated");
  CHECK(setup.database.query(truncate) == "empty");
  CHECK(setup.database.count("select count(*) from pillion.outbox") == 1);
}

TEST_CASE("the first events of an idle outbox are more than a page: the very first is among them") {
  Setup setup;
  auto options = relayOptions(setup.database, setup.exchange);
  options.pageEvents = 10;
  options.renewEvery = 100ms;
  const auto relay = Relay::create(options);
  relay->start();
  // Its floor is then the sequence as it is before its first use.
  REQUIRE(eventually(10s, [&] { return relay->stats().checkpoints >= 3; }));
  auto connection = setup.database.connect();
  pqxx::work tx{connection};
  std::vector<Event> events;
  for (int n = 0; n < 25; ++n) events.push_back(created(n));
  setup.publisher->publish(tx, events);
  tx.commit();
  std::vector<int> numbers;
  for (const auto& message : setup.queue.read(25)) {
    numbers.push_back(nlohmann::json::parse(message.body).at("n").get<int>());
  }
  std::ranges::sort(numbers);
  REQUIRE(numbers.size() == 25);
  CHECK(numbers.front() == 0);
  CHECK(numbers.back() == 24);
}
