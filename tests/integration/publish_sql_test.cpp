#define PILLION_TEST_MAIN
#include <csignal>
#include <map>
#include <set>
#include <thread>

#include "fixture.hpp"

// What publish() in SQL takes and refuses, whom it serves, and how scheduled events move.

using namespace pillion;
using namespace pillion::test;

namespace {

struct Setup : RelayedOutbox {
  /// Of the server's error, or "" when there was none. Nothing stays written.
  std::string refusal(const std::string& call) const {
    auto connection = database.connect();
    pqxx::work tx{connection};
    try {
      tx.exec("set local pillion.source = 's'; select pillion." + call);
      return "";
    } catch (const pqxx::sql_error& error) {
      CHECK(error.sqlstate() == "22023");
      return error.what();
    }
  }

  void checkRefused(const std::string& call, const std::string& message) const {
    const std::string text = refusal(call);
    CHECK_MESSAGE(text.find(message) != std::string::npos, call, ": ", text);
  }

  void publish(const std::vector<Event>& events) const {
    auto connection = database.connect();
    pqxx::work tx{connection};
    publisher->publish(tx, events);
    tx.commit();
  }

  [[nodiscard]] long scheduled() const {
    return database.count("select count(*) from pillion.scheduled");
  }
};

std::string ofData(const std::string& data) {
  return "publish('a.b', " + data + ")";
}

Event numbered(int n) {
  return Event("product.created", {{"n", n}}).setKey("one key");
}

std::chrono::system_clock::time_point now() {
  return std::chrono::system_clock::now();
}

}  // namespace

TEST_CASE("text, json, jsonb and bytes each travel as what they are") {
  Setup setup;
  setup.relay->start();
  setup.database.execute(
      "set pillion.source = 'legacy';"
      "select pillion.publish('a.text', '{ \"n\" :  1 }');"
      "select pillion.publish('a.json', '{ \"n\" :  1 }'::json);"
      "select pillion.publish('a.jsonb', '{ \"n\" :  1 }'::jsonb);"
      "select pillion.publish_bytes('a.bytes', '\\x00ff', 'image/png');"
      "select pillion.publish_bytes('a.plain', 'no JSON', 'text/plain')");
  const auto messages = setup.queue.read(5);
  REQUIRE(messages.size() == 5);
  std::map<std::string, amqp::Message> byType;
  for (const auto& message : messages) byType.emplace(message.type, message);
  CHECK(byType["a.text"].body == R"({ "n" :  1 })");
  CHECK(byType["a.json"].body == R"({ "n" :  1 })");
  CHECK(byType["a.jsonb"].body == R"({"n": 1})");
  CHECK(byType["a.bytes"].body == std::string("\0\xff", 2));
  CHECK(byType["a.bytes"].contentType == "image/png");
  CHECK(byType["a.plain"].body == "no JSON");
  CHECK(byType["a.plain"].contentType == "text/plain");
  CHECK(byType["a.text"].contentType == "application/json");
  CHECK(byType["a.text"].appId == "legacy");
}

TEST_CASE("SQL refuses JSON that no consumer could read, in words that hold none of it") {
  Setup setup;
  setup.checkRefused(ofData("null"), "event field 'data' is null");
  setup.checkRefused(ofData("'{secret'"), "event field 'data' is not JSON, which its content type");
  CHECK(setup.refusal(ofData("'{secret'")).find("secret") == std::string::npos);
  setup.checkRefused("publish_bytes('a.b', '\\xff', 'application/a+json; x=y')",
                     "event field 'data' is not JSON");
  setup.checkRefused(ofData("repeat('[', 257) || repeat(']', 257)"), "deeper than 256 levels");
  CHECK(setup.refusal(ofData("repeat('[', 256) || repeat(']', 256)")).empty());
  CHECK(setup.refusal(ofData("'[' || repeat('{\"a\":[]},', 999) || '1]'")).empty());
  CHECK(setup.refusal(ofData("'\"' || repeat('\\\"[', 999) || '\"'")).empty());
  setup.checkRefused(ofData("'{\"n\":1e400}'::json"), "holds a number larger than any double");
  setup.checkRefused(ofData("repeat('9', 400)::jsonb"), "holds a number larger than any double");
  CHECK(setup.refusal(ofData("'[1e308, 1e-400, \"1e999\"]'")).empty());
  setup.checkRefused(ofData("'{\"a\":1,\"b\":[{\"c\":1,\"c\":2}]}'"), "a name occurs twice");
  setup.checkRefused(ofData("'{\"a\":\":\",\"\\u0061\":2}'"), "a name occurs twice");
  CHECK(setup.refusal(ofData("'[{\"a\":1},{\"a\":\"::\",\"\\u003a\":{\"a\":1}}]'")).empty());
  setup.checkRefused(ofData("'[' || repeat('1,', 1000000) || '1]'"),
                     "more than 1000000 JSON values");
  CHECK(setup.refusal(ofData("'[\"' || repeat(',', 1000000) || '\"]'")).empty());
  setup.checkRefused(ofData("'\"\\ud800\"'::json"), "escapes half a surrogate pair");
  CHECK(setup.refusal(ofData("'\"\\u0000 \\\\u0000 \\ud83d\\ude00\"'")).empty());
  setup.checkRefused(
      "publish_bytes('a.b', convert_to(repeat('x', 16777217), 'UTF8'), 'text/plain')",
      "event field 'data' is 16777217 bytes long; the limit is 16777216 bytes");
}

TEST_CASE("everything that SQL took is an event to a consumer") {
  Setup setup;
  setup.relay->start();
  setup.database.execute(
      "set pillion.source = 's';"
      "select pillion.publish('a.b', repeat('[', 256) || repeat(']', 256));"
      "select pillion.publish('a.b', '[1e308, 1e-400, \"1e999\"]');"
      "select pillion.publish('a.b', '\"\\u0000 \\\\u0000 \\ud83d\\ude00\"');"
      "select pillion.publish('a.b', to_jsonb(repeat('9', 300)::numeric));"
      "select pillion.publish('a.b', 'null'::json, headers => '{\"a\": \"\\u00fc\"}')");
  const auto messages = setup.queue.read(5);
  REQUIRE(messages.size() == 5);
  for (const auto& message : messages) {
    const auto event = amqp::eventFrom(message);
    CHECK_MESSAGE(std::holds_alternative<Event>(event), message.body.substr(0, 60));
  }
}

TEST_CASE("a time that no relay could compare is refused, so none can stop it") {
  Setup setup;
  for (const std::string time : {"infinity", "-infinity", "2200-01-01 00:00Z"}) {
    const std::string value = " => '" + time + "')";
    setup.checkRefused("publish('a.b', '1', deliver_at" + value,
                       "event field 'deliverAt' is outside");
    setup.checkRefused("publish('a.b', '1', expires_at" + value,
                       "event field 'expiresAt' is outside");
    setup.checkRefused("publish('a.b', '1', \"time\"" + value, "event field 'time' is outside");
  }
}

TEST_CASE(
    "a trigger keeps the order of a row's changes among clients at once, and rolls back with "
    "them") {
  Setup setup;
  setup.relay->start();
  setup.database.execute(
      "create table account (id int primary key, balance int not null);"
      "create function account_changed() returns trigger language plpgsql as $$ begin"
      " perform pillion.publish('account.changed', to_jsonb(new), key => 'account-' || new.id,"
      " source => 'bank'); return null; end $$;"
      "create trigger account_changed after insert or update on account"
      " for each row execute function account_changed();"
      "insert into account select g, 0 from generate_series(1, 3) g");
  constexpr int kClients = 4;
  constexpr int kUpdates = 50;
  std::vector<std::thread> clients;
  for (int c = 0; c < kClients; ++c) {
    clients.emplace_back([&] {
      auto connection = setup.database.connect();
      for (int i = 0; i < kUpdates; ++i) {
        pqxx::work tx{connection};
        tx.exec("update account set balance = balance + 1 where id = " + std::to_string(i % 3 + 1));
        if (i % 5 == 0) continue;  // rolled back: no event
        tx.commit();
      }
    });
  }
  for (auto& client : clients) client.join();
  const std::size_t expected = 3 + kClients * kUpdates * 4 / 5;
  const auto messages = setup.queue.read(expected);
  REQUIRE(messages.size() == expected);
  std::map<int, int> balance{{1, -1}, {2, -1}, {3, -1}};
  for (const auto& message : messages) {
    const auto row = nlohmann::json::parse(message.body);
    const int next = row.at("balance").get<int>();
    CHECK(next == ++balance.at(row.at("id").get<int>()));
  }
}

TEST_CASE("a role with the publisher's documented rights can publish, and can do no more") {
  Setup setup;
  const std::string role = "only_publishes_" + setup.database.name().substr(3);
  setup.database.execute(
      "create role " + role + "; grant usage on schema pillion to " + role +
      "; grant insert (event_id, type, source, key, time, content_type, correlation_id,"
      " causation_id, traceparent, tracestate, headers, payload, expires_at) on pillion.outbox "
      "to " +
      role + "; grant usage on sequence pillion.outbox_id_seq to " + role +
      "; grant insert on pillion.scheduled to " + role);
  const std::string as = "set role " + role + "; set pillion.source = 's'; ";
  CHECK_NOTHROW(setup.database.execute(as + "select pillion.publish('a.b', '1')"));
  CHECK_NOTHROW(setup.database.execute(
      as + "select pillion.publish('a.b', '1', deliver_at => now() + interval '1 day')"));
  CHECK_THROWS(setup.database.execute(as + "select count(*) from pillion.outbox"));
  CHECK_THROWS(setup.database.execute(as + "select * from pillion.move_due(1, 1)"));
  CHECK_THROWS(setup.database.execute(as + "delete from pillion.scheduled"));
}

TEST_CASE("neither the search path nor temporary tables of the session lead an event astray") {
  Setup setup;
  setup.database.execute(
      "create schema other; create table other.outbox (like pillion.outbox);"
      "create temporary table outbox (like pillion.outbox);"
      "create temporary table scheduled (like pillion.scheduled);"
      "set search_path = pg_temp, other;"
      "select pillion.publish('a.b', '1', source => 's');"
      "select pillion.publish('a.b', '1', source => 's', deliver_at => now())");
  CHECK(setup.database.count("select count(*) from pillion.outbox") == 1);
  CHECK(setup.scheduled() == 1);
}

TEST_CASE("the id of a scheduled event carries the due time, however far it is") {
  Setup setup;
  setup.publisher->publish(numbered(1).setDeliverAt(now() + 20 * 24h));
  setup.publisher->publish(numbered(2).setDeliverAt(now() + 11h));
  setup.database.execute(
      "set pillion.source = 's'; set timezone = 'Asia/Kathmandu';"
      "select pillion.publish('a.b', '3', deliver_at => now() + interval '20 days'),"
      " pillion.publish('a.b', '4', deliver_at => now() + interval '11 hours'),"
      " pillion.publish('a.b', '5', deliver_at => '2199-12-31 23:59Z')");
  CHECK(setup.scheduled() == 5);
  CHECK(setup.database.query(
            "select string_agg(case when age < interval '10 ms' then 'due'"
            " when age < interval '12 hours' then 'now' else age::text end, ' ' order by id)"
            " from (select id, deliver_at - to_timestamp(('x' || lpad(left(replace(event_id::text,"
            " '-', ''), 12), 16, '0'))::bit(64)::bigint / 1000.0) as age from pillion.scheduled) "
            "a") == "due now due now due");
}

TEST_CASE("SQL refuses an old id of version 7 with a due time, and takes any other id") {
  const Setup setup;
  const auto call = [](const std::string& id, const std::string& due) {
    return "publish('a.b', '1', id => '" + id + "', deliver_at => '" + due + "')";
  };
  const std::string old = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f";  // 2022-02-22 19:22:22Z
  CHECK(setup.refusal(call(old, "2022-02-23 07:22:22Z")).empty());
  setup.checkRefused(call(old, "2022-02-23 07:22:22.001Z"), "event field 'id' carries a time");
  setup.checkRefused(call(old, "2199-12-31Z"), "event field 'id' carries a time");
  CHECK(setup.refusal(call(old, "1999-12-31Z")).empty());
  CHECK(setup.refusal("publish('a.b', '1', id => '" + old + "')").empty());
  CHECK(setup.refusal(call("017f22e2-79b0-4cc3-98c4-dc0c0c07398f", "2199-12-31Z")).empty());
  CHECK(setup.refusal(call("ffffffff-ffff-7000-8000-000000000000", "2199-12-31Z")).empty());
  setup.checkRefused(call(old, "infinity"), "event field 'deliverAt' is outside");
}

TEST_CASE("scheduled events keep every attribute") {
  Setup setup;
  setup.relay->start();
  Event event("order.paid", {{"total", 12.5}});
  event.setKey("order-1").setCorrelationId("corr").setCausationId("cause");
  event.setTrace("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "vendor=1");
  event.setHeader("tenant", "acme").setDeliverAt(now() - 1s).setExpiresAt(now() + 1h);
  setup.publisher->publish(event);
  const auto messages = setup.queue.read(1);
  REQUIRE(messages.size() == 1);
  const Event back = std::get<Event>(amqp::eventFrom(messages[0]));
  CHECK(back.id() == event.id());
  CHECK(back.data() == event.data());
  CHECK(back.key() == "order-1");
  CHECK(back.correlationId() == "corr");
  CHECK(back.causationId() == "cause");
  CHECK(back.traceparent() == event.traceparent());
  CHECK(back.tracestate() == "vendor=1");
  CHECK(back.headers() == event.headers());
  const auto micros = [](auto time) { return std::chrono::floor<std::chrono::microseconds>(time); };
  CHECK(micros(back.time()) == micros(event.time()));
  CHECK(micros(back.expiresAt().value()) == micros(event.expiresAt().value()));
}

TEST_CASE("many callers at once move each due event exactly once, and in order") {
  Setup setup;
  constexpr int kEvents = 2'000;
  setup.database.execute(
      "select pillion.publish('a.b', to_jsonb(g), key => 'k', source => 's',"
      " deliver_at => now() - interval '1 day' + g * interval '1 ms')"
      " from generate_series(1, " +
      std::to_string(kEvents) + ") g");
  std::vector<std::thread> movers;
  for (int m = 0; m < 4; ++m) {
    movers.emplace_back([&] {
      auto connection = setup.database.connect();
      for (;;) {
        pqxx::work tx{connection};
        tx.exec("select * from pillion.move_due(37, 1000000)");
        const auto left = tx.exec("select count(*) from pillion.scheduled");
        tx.commit();
        if (left[0][0].as<int>() == 0) return;
      }
    });
  }
  for (auto& mover : movers) mover.join();
  CHECK(setup.database.count("select count(*) from pillion.outbox") == kEvents);
  CHECK(setup.database.count(
            "select count(*) from (select convert_from(payload, 'UTF8')::int as n,"
            " row_number() over (order by id) as place from pillion.outbox) o where n <> place") ==
        0);
}

TEST_CASE("a call moves no more than its limits of rows and bytes, and says when the next is due") {
  Setup setup;
  setup.database.execute(
      "select pillion.publish_bytes('a.b', convert_to(repeat('x', 1000), 'UTF8'), 'text/plain',"
      " source => 's', deliver_at => now() - interval '1 day') from generate_series(1, 10);"
      "select pillion.publish('a.b', '1', source => 's', deliver_at => now() + interval '1 hour')");
  const auto move = [&](const std::string& limits) {
    return setup.database.query("select moved || ' ' || (next_ms > 0) from pillion.move_due(" +
                                limits + ")");
  };
  CHECK(move("3, 100000000") == "3 false");
  CHECK(move("100, 1500") == "2 false");
  CHECK(move("100, 1") == "1 false");
  CHECK(move("100, 100000000") == "4 true");
  CHECK(move("100, 100000000") == "0 true");
  setup.database.execute("delete from pillion.scheduled");
  CHECK(setup.database.count(
            "select count(*) from pillion.move_due(1, 1) where moved = 0 and next_ms is null") ==
        1);
}

TEST_CASE("a relay killed after a move loses nothing and publishes nothing in another order") {
  Setup setup;
  constexpr int kEvents = 300;
  std::vector<Event> events;
  for (int n = 0; n < kEvents; ++n) events.push_back(numbered(n).setDeliverAt(now() - 1h + n * 1s));
  setup.publish(events);
  auto doomed = startRelayProcess(setup.database, setup.exchange, "relay.moved=kill");
  REQUIRE(doomed.waitFor(20s) == 128 + SIGKILL);
  setup.relay->start();
  REQUIRE(eventually(20s, [&] { return setup.scheduled() == 0 && drained(setup.database); }));
  std::vector<int> firsts;
  std::set<int> seen;
  for (const auto& message : setup.queue.readFor(500ms)) {
    const int n = nlohmann::json::parse(message.body).at("n").get<int>();
    if (seen.insert(n).second) firsts.push_back(n);
  }
  CHECK(firsts.size() == kEvents);
  CHECK(std::is_sorted(firsts.begin(), firsts.end()));
}

TEST_CASE(
    "a role whose transactions are serializable by default can run a relay that moves events") {
  Setup setup;
  setup.database.execute("alter database \"" + setup.database.name() +
                         "\" set default_transaction_isolation = serializable");
  setup.publish({numbered(1).setDeliverAt(now() - 1s)});
  setup.relay->start();
  CHECK(setup.queue.read(1).size() == 1);
  CHECK(setup.scheduled() == 0);
}

TEST_CASE("an expired event lets those of its key behind it go on, in order") {
  Setup setup;
  std::vector<Event> events;
  for (int n = 0; n < 100; ++n) {
    Event event = numbered(n);
    if (n % 2 == 1) event.setExpiresAt(now() - 1s);
    if (n % 4 == 0) event.setExpiresAt(now() + 1h);
    events.push_back(event);
  }
  setup.publish(events);
  setup.relay->start();
  const auto messages = setup.queue.read(50);
  REQUIRE(messages.size() == 50);
  for (int i = 0; i < 50; ++i) {
    const auto& body = messages[static_cast<std::size_t>(i)].body;
    CHECK(nlohmann::json::parse(body).at("n") == 2 * i);
  }
  REQUIRE(eventually(10s, [&] { return drained(setup.database); }));
  CHECK(setup.queue.readFor(200ms).empty());
  CHECK(setup.relay->stats().expired == 50);
  CHECK(setup.relay->stats().published == 50);
}
