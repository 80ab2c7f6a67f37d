#define PILLION_TEST_MAIN
#include <map>
#include <set>

#include "fixture.hpp"

// Other ways into the outbox: SQL, triggers, events that are due later or worth nothing after a
// time.

using namespace pillion;
using namespace pillion::test;

namespace {

struct Setup : RelayedOutbox {
  /// The error that a statement is refused with, and what it left behind.
  [[nodiscard]] std::string refusal(const std::string& arguments) const {
    auto connection = database.connect();
    try {
      pqxx::work tx{connection};
      tx.exec("select pillion.publish(" + arguments + ")");
      tx.commit();
      return "(none)";
    } catch (const pqxx::sql_error& error) {
      CHECK(error.sqlstate() == "22023");
      CHECK(database.count("select count(*) from pillion.outbox") == 0);
      const std::string text = error.what();
      return text.substr(0, text.find('\n'));
    }
  }
};

Event eventOf(const amqp::Message& message) {
  return std::get<Event>(amqp::eventFrom(message));
}

/// All that travels, but for the broker's own headers.
std::map<std::string, std::string> wire(const amqp::Message& message) {
  std::map<std::string, std::string> all(message.headers.begin(), message.headers.end());
  all.erase("pillion-outbox-id");  // each row has its own
  all["(routing key)"] = message.routingKey;
  all["(message_id)"] = message.messageId;
  all["(type)"] = message.type;
  all["(app_id)"] = message.appId;
  all["(content_type)"] = message.contentType;
  all["(correlation_id)"] = message.correlationId;
  all["(timestamp)"] = std::to_string(message.timestamp);
  all["(body)"] = message.body;
  return all;
}

Event::Time in(std::chrono::milliseconds time) {
  return std::chrono::system_clock::now() + time;
}

}  // namespace

TEST_CASE("an event published by SQL is on the wire what it is when published by C++") {
  Setup setup;
  Event event("product.created", {{"sku", "A-1"}, {"name", "Größe"}, {"n", 1.5}});
  event.setKey("A-1").setCorrelationId("corr").setCausationId("cause").setHeader("tenant", "acme");
  event.setTrace("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "a=b");
  setup.publisher->publish(event);
  auto connection = setup.database.connect();
  pqxx::work tx{connection};
  tx.exec("select pillion.publish('product.created', " + tx.quote(event.bytes()) +
          ", key => 'A-1', headers => '{\"tenant\":\"acme\"}', source => 'test-service', id => " +
          tx.quote(event.id()) +
          ", \"time\" => (select time from pillion.outbox), correlation_id => 'corr',"
          " causation_id => 'cause', traceparent =>"
          " '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01', tracestate => 'a=b')");
  tx.commit();
  setup.relay->start();
  const auto messages = setup.queue.read(2);
  REQUIRE(messages.size() == 2);
  CHECK(wire(messages[0]) == wire(messages[1]));
}

TEST_CASE("SQL publish makes ids of version 7, takes source from a setting, and rolls back") {
  Setup setup;
  setup.relay->start();
  auto connection = setup.database.connect();
  {
    pqxx::work tx{connection};
    tx.exec("select pillion.publish('gone', '{}', source => 'sql')");
  }
  pqxx::work tx{connection};
  tx.exec("set local pillion.source = 'billing'");
  const auto before = std::chrono::system_clock::now() - 5s;
  const std::string id = tx.exec("select pillion.publish('paid', '{\"n\":1}')")[0][0].c_str();
  tx.commit();
  const auto messages = setup.queue.read(1);
  REQUIRE(messages.size() == 1);
  const Event event = eventOf(messages[0]);
  CHECK(event.id() == id);
  CHECK(id[14] == '7');
  CHECK(event.source() == "billing");
  CHECK(event.data().at("n") == 1);
  CHECK(event.time() > before);
  CHECK(setup.queue.readFor(200ms).empty());
}

TEST_CASE("a trigger publishes with the row, in the order of the row's changes") {
  Setup setup;
  setup.relay->start();
  setup.database.execute(
      "create table product (sku text primary key, stock int);"
      "create function product_changed() returns trigger language plpgsql as $$ begin"
      "  perform pillion.publish('product.changed', row_to_json(new), key => new.sku,"
      "    source => 'product-service'); return null; end $$;"
      "create trigger product_changed after insert or update on product"
      "  for each row execute function product_changed()");
  setup.database.execute("insert into product values ('A', 1), ('B', 1)");
  for (int i = 2; i <= 20; ++i) {
    setup.database.execute("update product set stock = " + std::to_string(i));
  }
  std::map<std::string, int> stock;
  for (const auto& message : setup.queue.read(40)) {
    const Event event = eventOf(message);
    CHECK(event.data().at("stock") == ++stock[event.key()]);
  }
  CHECK(stock == std::map<std::string, int>{{"A", 20}, {"B", 20}});
}

TEST_CASE("SQL publish refuses what C++ publish refuses, in the same words, and writes nothing") {
  Setup setup;
  const std::string source = ", source => 's'";
  const std::map<std::string, std::string> expected = {
      {"'', '{}'" + source, "ERROR:  event field 'type' is empty; 1 to 255 bytes are needed"},
      {"repeat('t', 256), '{}'" + source,
       "ERROR:  event field 'type' is 256 bytes long; the limit is 255 bytes"},
      {"'a b', '{}'" + source,
       "ERROR:  event field 'type' holds a blank, a control character, '*' or '#'; it is a routing"
       " key of words separated by dots, such as product.created"},
      {"'t', '{}'", "ERROR:  event field 'source' is empty; 1 to 255 bytes are needed"},
      {"'t', '{}', key => repeat('ü', 128)" + source,
       "ERROR:  event field 'key' is 256 bytes long; the limit is 255 bytes"},
      {"'t', '{}', headers => '{\"x-death\":\"1\"}'" + source,
       "ERROR:  event field 'headers' has the header 'x-death', a name that AMQP, CloudEvents or"
       " Pillion uses"},
      {"'t', '{}', headers => '{\"n\":1}'" + source,
       "ERROR:  event field 'headers' has the header 'n', whose value is no text"},
      {"'t', '{}', headers => json_build_object('n', repeat('v', 65530))" + source,
       "ERROR:  event field 'headers' is 65537 bytes long; the limit is 65536 bytes"},
      {"'t', '{}', traceparent => 'nonsense'" + source,
       "ERROR:  event field 'traceparent' is 8 bytes and not of the form 00-<32 hex>-<16 hex>-<2"
       " hex> (W3C Trace Context)"},
      {"'t', '{}', \"time\" => '1969-12-31'" + source,
       "ERROR:  event field 'time' is outside the years 1970 to 2199"},
      {"'t', (repeat('[', 257) || repeat(']', 257))::json" + source,
       "ERROR:  event field 'data' is nested deeper than 256 levels"},
      {"'t', null" + source, "ERROR:  event field 'data' is null"},
  };
  for (const auto& [arguments, message] : expected) {
    CAPTURE(arguments);
    CHECK(setup.refusal(arguments) == message);
  }
  // Brackets in a text are no nesting.
  CHECK(setup.refusal("'t', to_json(repeat('[', 1000))" + source) == "(none)");
}

TEST_CASE("an event that is due later is published then, not before, and in its place then") {
  Setup setup;
  setup.relay->start();
  auto connection = setup.database.connect();
  pqxx::work tx{connection};
  const auto due = in(1'500ms);
  std::vector<Event> events;
  for (int n = 0; n < 6; ++n) {
    events.push_back(Event("n", {{"n", n}}).setKey("k"));
    if (n % 2 == 1) events.back().setDeliverAt(due + std::chrono::milliseconds(n));
  }
  setup.publisher->publish(tx, events);
  tx.commit();
  std::vector<int> order;
  for (const auto& message : setup.queue.read(3)) order.push_back(eventOf(message).data()["n"]);
  CHECK(std::chrono::system_clock::now() < due);
  CHECK(setup.database.count("select count(*) from pillion.scheduled") == 3);
  for (const auto& message : setup.queue.read(3)) order.push_back(eventOf(message).data()["n"]);
  CHECK(std::chrono::system_clock::now() >= due);
  CHECK(order == std::vector<int>{0, 2, 4, 1, 3, 5});
  CHECK(setup.database.count("select count(*) from pillion.scheduled") == 0);
}

TEST_CASE("a rolled-back event is not scheduled, and SQL schedules as C++ does") {
  Setup setup;
  setup.relay->start();
  auto connection = setup.database.connect();
  {
    pqxx::work tx{connection};
    setup.publisher->publish(tx, Event("gone", 1).setDeliverAt(in(100ms)));
  }
  pqxx::work tx{connection};
  tx.exec("select pillion.publish('later', '1', source => 's', deliver_at => now() + '300 ms')");
  tx.commit();
  const auto messages = setup.queue.read(1);
  REQUIRE(messages.size() == 1);
  CHECK(messages[0].type == "later");
  CHECK(setup.queue.readFor(300ms).empty());
}

TEST_CASE("many events of a key that fall due at once keep their order with three relays at work") {
  Setup setup;
  std::vector<std::unique_ptr<Relay>> relays;
  for (int i = 0; i < 3; ++i) {
    auto options = relayOptions(setup.database, setup.exchange);
    options.pageEvents = 50;  // many moves
    relays.push_back(Relay::create(options));
  }
  std::vector<Event> events;
  const auto due = in(100ms);
  for (int n = 0; n < 2'000; ++n) {
    events.push_back(Event("n", {{"n", n}}).setKey("k" + std::to_string(n % 7)));
    events.back().setDeliverAt(due + std::chrono::microseconds(n));
  }
  auto connection = setup.database.connect();
  pqxx::work tx{connection};
  setup.publisher->publish(tx, events);
  tx.commit();
  for (auto& relay : relays) relay->start();
  std::map<std::string, int> last;
  int outOfOrder = 0;
  for (const auto& message : setup.queue.read(2'000)) {
    const Event event = eventOf(message);
    const int n = event.data()["n"];
    if (last.contains(event.key()) && n <= last[event.key()]) ++outOfOrder;
    last[event.key()] = n;
  }
  CHECK(outOfOrder == 0);
  CHECK(last.size() == 7);
}

TEST_CASE("an event past its expiry is dropped and counted; one before it says when it ends") {
  Setup setup;
  const auto expiry = in(1h);
  setup.publisher->publish(Event("old", 1).setExpiresAt(in(-1s)));
  setup.publisher->publish(Event("fresh", 2).setExpiresAt(expiry));
  setup.database.execute(
      "select pillion.publish('old', '3', source => 's', expires_at => now() - interval '1 s')");
  setup.relay->start();
  const auto messages = setup.queue.read(1);
  REQUIRE(messages.size() == 1);
  CHECK(messages[0].type == "fresh");
  const auto arrived = eventOf(messages[0]).expiresAt();
  REQUIRE(arrived);
  CHECK(*arrived == std::chrono::floor<std::chrono::microseconds>(expiry));
  CHECK(eventually(10s, [&] { return drained(setup.database); }));
  CHECK(setup.relay->stats().expired == 2);
  CHECK(setup.relay->stats().published == 1);
}

TEST_CASE("an event that expires while it is parked is dropped when its queue comes at last") {
  Setup setup;
  const std::string exchange = uniqueName("lonely");
  const auto relay = Relay::create(relayOptions(setup.database, exchange));
  relay->start();
  setup.publisher->publish(Event("t", 1).setExpiresAt(in(700ms)));
  REQUIRE(eventually(10s, [&] { return relay->stats().parked == 1; }));
  REQUIRE(eventually(10s, [&] { return relay->stats().expired == 1; }));
  CHECK(eventually(
      10s, [&] { return setup.database.count("select count(*) from pillion.parked") == 0; }));
}
