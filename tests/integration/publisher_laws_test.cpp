#define PILLION_TEST_MAIN
#include <cstdlib>
#include <functional>
#include <limits>

#include "fixture.hpp"
#include "support/pgbouncer.hpp"

// What a publisher writes depends on nothing that a service's connection, role, pool or database
// may set.

using namespace pillion;
using namespace pillion::test;

namespace {

/// All that is text in an event, outside of ASCII.
Event foreignEvent() {
  Event event("bestätigt.größe", {{"name", "Größe"}});
  event.setId("018f0000-0000-4000-8000-000000000001").setKey("größe-ß");
  event.setSource("zürich").setCorrelationId("kö").setCausationId("ü").setHeader("straße", "Ä");
  event.setTrace("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "k=ö");
  return event;
}

/// The texts of every row as UTF-8, whatever the database holds them in, and the lane.
std::vector<std::string> rowsOf(const TestDatabase& database, const std::string& table) {
  pqxx::connection connection{database.url()};
  connection.set_client_encoding("UTF8");
  pqxx::work tx{connection};
  std::vector<std::string> rows;
  for (const auto& row :
       tx.exec("select concat_ws('|', type, source, key, correlation_id, causation_id, traceparent,"
               " tracestate, headers, encode(payload, 'hex')" +
               std::string(table == "outbox" ? ", lane" : "") + ") from pillion." + table +
               " order by id")) {
    rows.emplace_back(row[0].c_str());
  }
  return rows;
}

/// Every table has so many rows, and they are all alike.
void requireAlike(const TestDatabase& database, std::size_t count) {
  for (const char* table : {"outbox", "scheduled"}) {
    const auto rows = rowsOf(database, table);
    REQUIRE(rows.size() == count);
    CHECK(rows.front().starts_with("bestätigt.größe|zürich|größe-ß|kö|ü|00-"));
    for (const auto& row : rows) CHECK(row == rows.front());
  }
}

/// What is done to a connection before anything is written on it.
using Prepare = std::function<void(pqxx::connection&)>;

void publishOn(const TestDatabase& database, const EventPublisher& publisher,
               const Prepare& prepare, const std::string& first = "select 1") {
  pqxx::connection connection{database.url()};
  prepare(connection);
  pqxx::work tx{connection};
  tx.exec(first);
  publisher.publish(tx, foreignEvent());
  publisher.publish(tx, foreignEvent().setDeliverAt(Event::Time(std::chrono::days(365 * 99))));
  tx.commit();
}

Prepare encodingOf(const std::string& name) {
  return [name](pqxx::connection& connection) { connection.set_client_encoding(name); };
}

void nothing(pqxx::connection&) {}

/// A migrated database in another encoding.
struct ForeignDatabase {
  explicit ForeignDatabase(const std::string& encoding) {
    Servers::pg().execute("postgres", "create database \"" + name + "\" encoding '" + encoding +
                                          "' lc_collate 'C' lc_ctype 'C' template template0");
    Migrator(options).migrate();
  }
  std::string name = uniqueName("foreign");
  DatabaseOptions options{.url = Servers::pg().url(name), .schema = "pillion"};
  std::unique_ptr<EventPublisher> publisher =
      EventPublisher::create("test-service", {.database = options});

  [[nodiscard]] pqxx::connection connect() const { return pqxx::connection(options.url); }
  [[nodiscard]] std::string query(const std::string& sql) const {
    return Servers::pg().query(name, sql);
  }
};

/// That a statement was refused with; "none" when it was not.
std::string sqlState(const std::function<void()>& work) {
  try {
    work();
    return "none";
  } catch (const pqxx::sql_error& error) {
    return error.sqlstate();
  }
}

void run(pqxx::connection& connection, const std::string& statement) {
  pqxx::nontransaction tx{connection};
  tx.exec(statement);
}

}  // namespace

TEST_CASE("an event is the same, and in the same lane, whatever encoding its connection has") {
  const TestOutbox setup;
  publishOn(setup.database, *setup.publisher, encodingOf("UTF8"));
  for (const std::string name : {"LATIN1", "WIN1252", "SJIS", "SQL_ASCII", "EUC_JP", "KOI8R",
                                 "BIG5", "GB18030", "LATIN9", "ISO_8859_5", "UHC", "JOHAB"}) {
    CAPTURE(name);
    publishOn(setup.database, *setup.publisher, encodingOf(name));
    publishOn(setup.database, *setup.publisher, nothing, "set client_encoding = " + name);
    publishOn(setup.database, *setup.publisher, nothing, "set local client_encoding = " + name);
  }
  setup.database.execute("alter role current_user set client_encoding = 'LATIN2'");
  publishOn(setup.database, *setup.publisher, nothing);
  setup.database.execute("alter role current_user reset client_encoding");
  requireAlike(setup.database, 38);
}

TEST_CASE("without prepared statements, and by the publisher's own connection, it is the same") {
  const TestOutbox setup;
  const auto plain = EventPublisher::create(
      "test-service", {.database = setup.database.options(), .preparedStatements = false});
  publishOn(setup.database, *setup.publisher, encodingOf("UTF8"));
  publishOn(setup.database, *plain, encodingOf("LATIN1"));
  const Event later = foreignEvent().setDeliverAt(Event::Time(std::chrono::days(365 * 99)));
  ::setenv("PGCLIENTENCODING", "WIN1252", 1);
  setup.publisher->publish(foreignEvent());
  setup.publisher->publish(later);
  publishOn(setup.database, *plain, nothing);
  ::unsetenv("PGCLIENTENCODING");
  auto options = setup.database.options();
  options.url += "?client_encoding=LATIN5";
  const auto turkish = EventPublisher::create("test-service", {.database = options});
  turkish->publish(foreignEvent());
  turkish->publish(later);
  requireAlike(setup.database, 5);
}

TEST_CASE("a schema's name is found by a connection of any encoding") {
  const TestDatabase database("schéma\\€");
  const auto publisher = EventPublisher::create("test-service", {.database = database.options()});
  for (const char* name : {"LATIN1", "SJIS", "UTF8"}) {
    publishOn(database, *publisher, encodingOf(name));
  }
  CHECK(database.count("select count(*) from \"schéma\\€\".outbox") == 3);
  CHECK(database.count("select count(*) from \"schéma\\€\".scheduled") == 3);
}

TEST_CASE("a database in another encoding holds the event and sends it as it was") {
  for (const std::string encoding : {"LATIN1", "LATIN9", "SQL_ASCII", "LATIN5"}) {
    CAPTURE(encoding);
    const ForeignDatabase database(encoding);
    const std::string exchange = uniqueName("exchange");
    TestQueue queue(exchange);
    for (const std::string& client : {encoding, std::string("UTF8"), std::string("SQL_ASCII")}) {
      auto connection = database.connect();
      connection.set_client_encoding(client);
      pqxx::work tx{connection};
      database.publisher->publish(tx, foreignEvent());
      tx.commit();
    }
    database.publisher->publish(foreignEvent());
    CHECK(database.query("select count(distinct lane) from pillion.outbox") == "1");
    CHECK(database.query("select count(*) from pillion.outbox where lane ="
                         " pillion.lane_of(null, key, id)") == "4");
    const auto relay = Relay::create(relayOptions(database.options, exchange));
    relay->start();
    const auto messages = queue.read(4);
    REQUIRE(messages.size() == 4);
    for (const auto& message : messages) {
      const Event event = std::get<Event>(amqp::eventFrom(message));
      CHECK(message.routingKey == "bestätigt.größe");
      CHECK(event.key() == "größe-ß");
      CHECK(event.source() == "zürich");
      CHECK(event.headers().at("straße") == "Ä");
      CHECK(event.tracestate() == "k=ö");
      CHECK(event.data().at("name") == "Größe");
    }
  }
}

TEST_CASE("a character that the database cannot hold is an error whose outcome is the caller's") {
  for (const std::string encoding : {"KOI8R", "LATIN1", "WIN1250"}) {
    CAPTURE(encoding);
    const ForeignDatabase database(encoding);
    const Event event = Event("t", 1).setKey("日本");
    auto connection = database.connect();
    pqxx::work tx{connection};
    {
      pqxx::subtransaction savepoint{tx};
      savepoint.exec("select 1");
      CHECK(sqlState([&] { database.publisher->publish(savepoint, event); }) == "22P05");
    }
    database.publisher->publish(tx, Event("t", {{"in the data", "日本"}}));
    tx.commit();
    CHECK(database.query("select count(*) from pillion.outbox") == "1");
    try {
      database.publisher->publish(event);
      FAIL("nothing was thrown");
    } catch (const DatabaseError& error) {
      CHECK_FALSE(error.retryable());
      CHECK(std::string(error.what()).find(encoding) != std::string::npos);
    }
  }
}

TEST_CASE("functions, operators and types that stand before PostgreSQL's own change nothing") {
  const TestOutbox setup;
  publishOn(setup.database, *setup.publisher, encodingOf("UTF8"));
  setup.database.execute(
      "create schema own;"
      "create function own.hashtextextended(text, int) returns bigint language sql as 'select 1';"
      "create function own.hashtextextended(text, bigint) returns bigint language sql as 'select "
      "1';"
      "create function own.convert_from(bytea, name) returns text language sql as 'select null';"
      "create function own.convert_from(bytea, text) returns text language sql as 'select null';"
      "create function own.conjunction(bigint, int) returns bigint language sql as 'select 1';"
      "create operator own.& (leftarg = bigint, rightarg = int, function = own.conjunction);"
      "create domain own.bytea as int; create domain own.uuid as pg_catalog.text;"
      "create domain own.int2 as pg_catalog.text; create domain own.timestamptz as int;"
      "create domain own.text as int");
  publishOn(setup.database, *setup.publisher, [](pqxx::connection& connection) {
    run(connection, "set search_path = own, pg_catalog");
  });
  publishOn(setup.database, *setup.publisher, [](pqxx::connection& connection) {
    run(connection, "create temp table text (n int); create temp table bytea (n int)");
  });
  requireAlike(setup.database, 3);
}

// A connection whose session somebody resets.

TEST_CASE("a session that was reset costs one transaction, and the next works") {
  for (const std::string reset : {"discard all", "deallocate all"}) {
    CAPTURE(reset);
    const TestOutbox setup;
    auto connection = setup.database.connect();
    const auto publish = [&] {
      return sqlState([&] {
        pqxx::work tx{connection};
        setup.publisher->publish(tx, Event("t", 1));
        tx.commit();
      });
    };
    CHECK(publish() == "none");
    run(connection, reset);
    CHECK(publish() == "26000");
    CHECK(publish() == "none");
    CHECK(publish() == "none");
    CHECK(setup.database.count("select count(*) from pillion.outbox") == 3);
  }
}

TEST_CASE("with a pool that resets each session, two transactions fail and no more") {
  const TestOutbox setup;
  std::vector<std::unique_ptr<pqxx::connection>> pool;
  for (int i = 0; i < 4; ++i) {
    pool.push_back(std::make_unique<pqxx::connection>(setup.database.url()));
  }
  int failed = 0;
  for (std::size_t i = 0; i < 60; ++i) {
    auto& connection = *pool[i % pool.size()];
    const std::string state = sqlState([&] {
      pqxx::work tx{connection};
      setup.publisher->publish(tx, i % 3 == 0 ? Event("t", 1).setHeader("a", "b") : Event("t", 1));
      tx.commit();
    });
    if (state != "none") ++failed;
    run(connection, "discard all");
  }
  CHECK(failed == 2);
  CHECK(setup.database.count("select count(*) from pillion.outbox") == 58);
}

TEST_CASE("other resets and other users change nothing for what is prepared") {
  const TestOutbox setup;
  setup.database.execute(
      "create role writer; grant usage on schema pillion to writer;"
      "grant insert on pillion.outbox to writer;"
      "grant usage on sequence pillion.outbox_id_seq to writer");
  auto connection = setup.database.connect();
  for (const std::string statement :
       {"select 1", "reset all", "set session authorization writer", "reset session authorization",
        "set role writer", "discard temp", "discard plans", "reset role", "discard sequences"}) {
    CAPTURE(statement);
    run(connection, statement);
    const auto publish = [&] {
      pqxx::work tx{connection};
      setup.publisher->publish(tx, Event("t", 1));
      tx.commit();
    };
    CHECK(sqlState(publish) == "none");
  }
  CHECK(setup.database.count("select count(*) from pillion.outbox") == 9);
}

TEST_CASE(
    "publishers of two schemas have no statement of one name, as a pooler could mix them up") {
  const TestDatabase database;
  auto other = database.options();
  other.schema = "other";
  Migrator(other).migrate();
  const auto preparedBy = [&](const DatabaseOptions& options) {
    const auto publisher = EventPublisher::create("s", {.database = options});
    auto connection = database.connect();
    pqxx::work tx{connection};
    publisher->publish(tx, Event("t", 1));
    const std::string name = tx.exec("select name from pg_prepared_statements")[0][0].c_str();
    tx.commit();
    return name.substr(0, name.rfind('_', name.rfind('_') - 1));  // without generation and rows
  };
  CHECK(preparedBy(database.options()) == preparedBy(database.options()));
  CHECK(preparedBy(database.options()) != preparedBy(other));
  CHECK(database.count("select count(*) from other.outbox") == 1);
}

TEST_CASE("publish() on the publisher's own connection outlives the reset of its session") {
  const TestOutbox setup;
  const support::PgBouncer bouncer(Servers::instance().directory / uniqueName("pgbouncer"),
                                   Servers::pg(), 1);
  auto options = setup.database.options();
  options.url = bouncer.url(setup.database.name());
  const auto publisher = EventPublisher::create("test-service", {.database = options});
  pqxx::connection neighbour{options.url};  // whose session it is, too
  for (int i = 0; i < 5; ++i) {
    CHECK_NOTHROW(publisher->publish(Event("t", i)));
    pqxx::work tx{neighbour};
    tx.exec("deallocate all");
    tx.commit();
  }
  CHECK(setup.database.count("select count(*) from pillion.outbox") == 5);
}

// What JSON or a text cannot say is refused when it is written, and nothing is.

TEST_CASE(
    "a value that JSON has no form for is refused wherever it stands, and nothing is written") {
  const TestOutbox setup;
  using nlohmann::json;
  const double infinite = std::numeric_limits<double>::infinity();
  const std::vector<json> values{json::parse("{", nullptr, /*allow_exceptions=*/false),
                                 std::numeric_limits<double>::quiet_NaN(),
                                 -std::numeric_limits<double>::quiet_NaN(),
                                 infinite,
                                 -infinite,
                                 static_cast<double>(std::numeric_limits<float>::infinity()),
                                 json::binary({0x00, 0xff}),
                                 json::binary({}, 7),
                                 "\xff",
                                 "\xed\xa0\x80",      // half a surrogate pair
                                 "\xc0\x80",          // a zero in two bytes
                                 "\xf4\x90\x80\x80",  // beyond the last character
                                 "\xf0\x9f\x98"};     // cut off
  for (std::size_t i = 0; i < values.size(); ++i) {
    CAPTURE(i);
    const json& value = values[i];
    CHECK_THROWS_AS(setup.publisher->publish(Event("t", value)), InvalidEvent);
    CHECK_THROWS_AS(setup.publisher->publish(Event("t", json::array({1, value}))), InvalidEvent);
    CHECK_THROWS_AS(setup.publisher->publish(Event("t", {{"a", {{"b", value}}}})), InvalidEvent);
    if (!value.is_string()) continue;
    CHECK_THROWS_AS(setup.publisher->publish(Event("t", {{value.get<std::string>(), 1}})),
                    InvalidEvent);
  }
  for (const std::string text : {"NaN", "Infinity", "[-Infinity]", "{\"a\":1e999}", "'a'", "{a:1}",
                                 "[1,]", "\"\xff\"", "\"\\ud800\"", "// nothing\n1", "", "1 2"}) {
    CAPTURE(text);
    CHECK_THROWS_AS(setup.publisher->publish(Event::ofBytes("t", text, "application/json")),
                    InvalidEvent);
    CHECK_THROWS_AS(setup.publisher->publish(Event::ofBytes("t", text, "application/a+json")),
                    InvalidEvent);
  }
  CHECK(setup.database.count("select count(*) from pillion.outbox") == 0);
}

TEST_CASE("a text that is none is refused in every attribute, and nothing is written") {
  const TestOutbox setup;
  for (const std::string& text :
       {std::string("\xff"), std::string("a\0b", 3), std::string("\xed\xbf\xbf")}) {
    CAPTURE(text);
    const auto refused = [&](const std::function<void(Event&)>& change) {
      Event event("t", 1);
      change(event);
      CHECK_THROWS_AS(setup.publisher->publish(event), InvalidEvent);
      CHECK_THROWS_AS(
          setup.publisher->publish(event.setDeliverAt(std::chrono::system_clock::now())),
          InvalidEvent);
    };
    refused([&](Event& event) { event.setKey(text); });
    refused([&](Event& event) { event.setSource(text); });
    refused([&](Event& event) { event.setId(text); });
    refused([&](Event& event) { event.setCorrelationId(text); });
    refused([&](Event& event) { event.setCausationId(text); });
    refused([&](Event& event) { event.setHeader(text, "value"); });
    refused([&](Event& event) { event.setHeader("name", text); });
    refused([&](Event& event) {
      event.setTrace("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", text);
    });
    CHECK_THROWS_AS(setup.publisher->publish(Event(text, 1)), InvalidEvent);
  }
  CHECK(setup.database.count("select count(*) from pillion.outbox") == 0);
  CHECK(setup.database.count("select count(*) from pillion.scheduled") == 0);
}

TEST_CASE("headers that SQL gives are refused when one of them could not arrive as it was given") {
  const TestOutbox setup;
  for (const std::string headers :
       {R"({"a":"1","a":"2"})", R"({"a":"1","\u0061":"2"})", R"({"a":1})", R"({"a":null})",
        R"({"a":["1"]})", R"({"a":"\u0000"})", R"({"\u0000":"1"})", R"({"a":"\ud800"})", R"(["a"])",
        R"({"":"1"})"}) {
    CAPTURE(headers);
    CHECK_THROWS(
        setup.database.execute("select pillion.publish('t', '1', source => 's', headers "
                               "=> '" +
                               headers + "')"));
  }
  CHECK(setup.database.count("select count(*) from pillion.outbox") == 0);
  CHECK_NOTHROW(
      setup.database.execute("select pillion.publish('t', '1', source => 's', headers =>"
                             R"('{"a":"a:{\"a\":\"b\"}","b":""}'))"));
}
