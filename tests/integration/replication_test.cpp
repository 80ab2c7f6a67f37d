// A database that is replicated logically: a publication for all tables stops nothing, and what was
// copied that way goes on in order.
#define PILLION_TEST_MAIN
#include <outbox/outbox_table.hpp>

#include "consumer_fixture.hpp"

namespace pillion::test {
namespace {

/// A cluster of its own whose every change is decoded, and a database in it.
struct Published {
  support::TemporaryDirectory directory;
  support::PostgresServer server{directory / "postgres", {.settings = {{"wal_level", "logical"}}}};
  DatabaseOptions options{.url = server.url("one"), .schema = "pillion"};
  std::string exchange = uniqueName("exchange");

  Published() {
    server.createDatabase("one");
    Migrator(options).migrate();
    execute(
        "create table journal (position bigserial primary key, event_id uuid, key text,"
        " number int, note text, at timestamptz)");
    execute("create publication everything for all tables");
  }
  void execute(const std::string& sql) const { server.execute("one", sql); }
  [[nodiscard]] long count(const std::string& sql, const std::string& database = "one") const {
    return std::stol(server.query(database, sql));
  }
  [[nodiscard]] std::unique_ptr<Relay> relay(const DatabaseOptions& database) const {
    return Relay::create(relayOptions(database, exchange));
  }
};

void publishNumbers(const DatabaseOptions& database, int from, int to) {
  const auto publisher = EventPublisher::create("s", {.database = database});
  for (int n = from; n < to; ++n) {
    publisher->publish(Event("t", {{"number", n}}).setKey("k" + std::to_string(n % 3)));
  }
}

/// The numbers of each key grow.
bool inOrder(const std::vector<amqp::Message>& messages) {
  std::map<std::string, int> last;
  for (const auto& message : messages) {
    const auto event = std::get<Event>(amqp::eventFrom(message));
    const int n = event.data().at("number");
    if (last.contains(event.key()) && last[event.key()] >= n) return false;
    last[event.key()] = n;
  }
  return true;
}

}  // namespace

TEST_CASE("while every change is decoded, relay, consumer and all commands do their work") {
  for (const std::string plugin : {"pgoutput", "test_decoding"}) {
    CAPTURE(plugin);
    const Published published;
    published.execute("select pg_create_logical_replication_slot('changes', '" + plugin + "')");
    ConsumerOptions options;
    options.database = published.options;
    options.broker = brokerOptions(published.exchange);
    options.retry = {.maxAttempts = 2, .first = 10ms, .factor = 1.0, .most = 10ms};
    const auto consumer = EventConsumer::create(uniqueName("decoded"), {"t", "bad"}, options);
    consumer->onEvent("t", [](const Event& event, Transaction& tx) { writeJournal(event, tx); });
    consumer->onEvent("bad", [](const Event&, Transaction&) { throw std::runtime_error("bad"); });
    consumer->start();
    const auto relay = published.relay(published.options);
    relay->start();
    publishNumbers(published.options, 0, 20);
    const auto publisher = EventPublisher::create("s", {.database = published.options});
    publisher->publish(Event("bad", 1).setKey("k0"));      // parked in the inbox, dead-lettered
    publisher->publish(Event("unheard", 1).setKey("k1"));  // parked in the outbox, tried again
    publisher->publish(Event("t", {{"number", 20}}).setId("9b2d0c1e-6a53-4c51-8f4e-2f1f6f0f4a11"));
    publisher->publish(
        Event("t", {{"number", 21}}).setDeliverAt(std::chrono::system_clock::now() + 200ms));
    CHECK(eventually(20s, [&] { return published.count("select count(*) from journal") == 22; }));
    CHECK(eventually(20s, [&] { return consumer->stats().deadLettered == 1; }));
    CHECK(published.count("select count(*) from pillion.inbox_parked") == 0);
    CHECK(eventually(
        20s, [&] { return published.count("select count(*) from pillion.inbox_dead") == 0; }));
    CHECK(eventually(20s, [&] { return readOutboxStatus(published.options).parked == 1; }));
    TestQueue late(published.exchange, "unheard");
    CHECK(late.read(1).size() == 1);
    CHECK(eventually(20s, [&] { return readOutboxStatus(published.options).parked == 0; }));
    relay->stop();
    consumer->stop();
    published.execute("select setval('pillion.outbox_id_seq', 4194304)");
    CHECK(published.server.query("one", "select pillion.truncate_published(0)") == "truncated");
    published.execute("delete from pillion.inbox");
    publishNumbers(published.options, 22, 25);
    CHECK_NOTHROW(adoptCluster(published.options, /*newIdentity=*/true));
    CHECK(rebaseCursor(published.options).republished == 3);
    // Decoded it can be, to its end.
    const std::string changes =
        plugin == "pgoutput"
            ? "select count(*) from pg_logical_slot_get_binary_changes('changes', null, null,"
              " 'proto_version', '1', 'publication_names', 'everything')"
            : "select count(*) from pg_logical_slot_get_changes('changes', null, null)";
    CHECK(published.count(changes) > 100);
  }
}

TEST_CASE("a subscriber gets everything; there relays wait for rebase, and publish in order then") {
  const Published published;
  published.server.createDatabase("two");
  const DatabaseOptions copy{.url = published.server.url("two"), .schema = "pillion"};
  Migrator(copy).migrate();
  const auto inCopy = [&](const std::string& sql) { published.server.execute("two", sql); };
  inCopy(
      "create table journal (position bigserial primary key, event_id uuid, key text,"
      " number int, note text, at timestamptz)");
  inCopy(
      "truncate pillion.migration, pillion.meta, pillion.lane, pillion.due_turn,"
      " pillion.inbox_horizon");
  TestQueue queue(published.exchange);
  publishNumbers(published.options, 0, 30);
  published.execute("select pg_create_logical_replication_slot('copy', 'pgoutput')");
  inCopy("create subscription copy connection '" + published.options.url +
         "' publication everything with (create_slot = false, slot_name = 'copy')");
  {
    const auto relay = published.relay(published.options);
    relay->start();
    CHECK(queue.read(30).size() == 30);
  }
  publishNumbers(published.options, 30, 60);
  published.execute(
      "select pillion.publish('t', '{\"number\":1000}', key => 'due', source => 's',"
      " deliver_at => now() + interval '1 hour')");
  CHECK(eventually(60s, [&] {
    return published.count("select count(*) from pillion.outbox", "two") == 60 &&
           published.count("select count(*) from pillion.scheduled", "two") == 1 &&
           published.count("select count(*) from pg_subscription_rel where srsubstate <> 'r'",
                           "two") == 0;
  }));
  CHECK(published.count("select count(*) from pillion.lane", "two") == 64);
  CHECK(published.count("select sum(apply_error_count) from pg_stat_subscription_stats", "two") ==
        0);
  inCopy(
      "alter subscription copy disable; alter subscription copy set (slot_name = none);"
      " drop subscription copy");

  // The copy takes over. Its sequences are where they were when it was made.
  const auto relay = published.relay(copy);
  CHECK_THROWS_WITH_AS(relay->start(), doctest::Contains("pillion rebase"), SchemaError);
  publishNumbers(copy, 60, 63);  // before anybody has looked: numbered below those that are there
  CHECK_THROWS_AS(relay->start(), SchemaError);
  CHECK(rebaseCursor(copy).republished == 63);
  relay->start();
  publishNumbers(copy, 63, 90);
  auto messages = queue.read(90);
  CHECK(messages.size() == 90);
  std::erase_if(messages, [](const auto& message) {
    const int n = std::get<Event>(amqp::eventFrom(message)).data().at("number");
    return n >= 60 && n < 63;
  });
  CHECK(inOrder(messages));
  CHECK(published.count("select count(*) from pillion.outbox", "two") == 90);
  CHECK_NOTHROW(inCopy("select pillion.publish('t', '1', source => 's', deliver_at => now())"));
  CHECK(queue.read(1).size() == 1);
}

}  // namespace pillion::test
