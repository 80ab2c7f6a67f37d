#define PILLION_TEST_MAIN
#include <inbox/postgres_inbox.hpp>
#include <outbox/caretaker.hpp>
#include <outbox/postgres_event_log.hpp>
#include <pillion/migrator.hpp>
#include <set>

#include "fixture.hpp"
#include "hostile_settings.hpp"
#include "support/pgbouncer.hpp"

// Whatever a role or a database sets: an event that was taken is read as it was, and what is
// refused is refused in one line.

using namespace pillion;
using namespace pillion::test;

namespace {

outbox::EventLogOptions logOptions(const DatabaseOptions& database) {
  return {.database = database, .relayName = "settings", .lease = 60s, .pageBytes = 1U << 20};
}

/// A line of ours, with no line break in it.
void checkOneLine(const std::exception& error) {
  CHECK(std::string(error.what()).find('\n') == std::string::npos);
}

/// How many events were taken, by C++ and by SQL, of two.
int publishTwo(const TestDatabase& database) {
  int taken = 0;
  try {
    const auto publisher = EventPublisher::create("s", {.database = database.options()});
    publisher->publish(Event("a.b", {{"n", 1}}).setKey("k").setHeader("h", "\\ '"));
    ++taken;
  } catch (const Error& error) {
    checkOneLine(error);
  }
  try {
    auto connection = database.connect();
    pqxx::work tx{connection};
    tx.exec(
        "select pillion.publish('a.b', E'{\"n\":\"\\\\u00e4\"}', key => 'k', source => 's',"
        " headers => E'{\"h\":\"\\\\\\\\ \\'\"}')");
    tx.commit();
    ++taken;
  } catch (const pqxx::failure&) {
    // The caller's own connection and its own timeouts.
  }
  return taken;
}

/// Opens as a relay does, reads everything, and writes that it is published. `observer` began
/// before the setting was made, so that the test's own look does not feel it.
void relayAll(const TestDatabase& database, pqxx::connection& observer, int expected) {
  outbox::PostgresEventLog log(logOptions(database.options()));
  outbox::Cursor cursor;
  REQUIRE(eventually(10s, [&] {  // until the session before has ended
    cursor.add(log.balance().taken);
    return cursor.lanes() == outbox::kAllLanes;
  }));
  {
    outbox::Caretaker caretaker({.database = database.options(),
                                 .who = "settings",
                                 .pageEvents = 10,
                                 .pageBytes = 1U << 20,
                                 .retention = 1h,
                                 .reconnectFirst = 100ms,
                                 .reconnectMost = 1s});
    REQUIRE(eventually(10s, [&] {
      pqxx::nontransaction look{observer};
      return look.exec("select count(*) from pillion.scheduled")[0][0].as<int>() == 0;
    }));
  }
  std::vector<Row> rows;
  for (bool more = true; more;) {
    auto page = log.fetch(cursor, 10);
    rows.insert(rows.end(), page.rows.begin(), page.rows.end());
    cursor = page.after;
    more = page.more && !page.rows.empty();
  }
  CHECK(rows.size() == static_cast<std::size_t>(expected));
  for (const Row& row : rows) {
    CHECK(row.key == "k");
    CHECK(row.time.size() >= 19);
    CHECK(row.time.starts_with("20"));
    CHECK(row.time[4] == '-');
    CHECK(nlohmann::json::parse(row.headers).at("h") == "\\ '");
    CHECK(nlohmann::json::parse(row.payload).contains("n"));
  }
  log.checkpoint({.cursor = cursor, .cursorMoved = true, .give = {}, .parked = {}});
  log.release();
}

}  // namespace

TEST_CASE("no setting of a database changes what is published, or it is refused in one line") {
  const TestDatabase database;
  auto observer = database.connect();
  const std::string alter = "alter database \"" + database.name() + "\" ";
  std::set<std::string> felt;
  int tried = 0;
  for (const Setting& setting : hostileSettings(database)) {
    CAPTURE(setting.name);
    CAPTURE(setting.value);
    try {
      database.execute(alter + "set \"" + setting.name + "\" = '" + setting.value + "'");
    } catch (const std::runtime_error&) {
      continue;  // PostgreSQL refuses it
    }
    ++tried;
    int taken = 0;
    try {
      taken = publishTwo(database);
      relayAll(database, observer, taken);
      taken = 0;
    } catch (const Error& error) {
      checkOneLine(error);
      felt.insert(setting.name);
      MESSAGE(setting.name << " = " << setting.value << ": " << std::string(error.what()));
    }
    // What a setting stopped comes when it is gone.
    auto admin = pqxx::connection(Servers::pg().url());
    pqxx::nontransaction(admin).exec(alter + "reset all");
    if (taken > 0) relayAll(database, observer, taken);
  }
  CHECK(tried > 150);
  CHECK(felt.size() <= 3);
}

TEST_CASE("a database of any encoding can be migrated, and its events are read back as UTF-8") {
  for (const std::string encoding :
       {"LATIN1", "LATIN2", "LATIN9", "KOI8R", "WIN1252", "SQL_ASCII"}) {
    CAPTURE(encoding);
    const std::string name = uniqueName("encoded");
    Servers::pg().execute("postgres", "create database \"" + name + "\" encoding '" + encoding +
                                          "' lc_collate 'C' lc_ctype 'C' template template0");
    const DatabaseOptions options{.url = Servers::pg().url(name), .schema = "pillion"};
    Migrator(options).migrate();
    Servers::pg().execute(name, "select pillion.publish('a.b', '{}', key => 'k', source => 's')");
    outbox::PostgresEventLog log(logOptions(options));
    CHECK(log.fetch(log.balance().taken, 10).rows.size() == 1);
  }
}

namespace {

/// Of the settings above those that a session of our own could feel most.
const std::vector<Setting>& toughSettings() {
  static const std::vector<Setting> settings{{"DateStyle", "German"},
                                             {"IntervalStyle", "sql_standard"},
                                             {"TimeZone", "Asia/Kathmandu"},
                                             {"bytea_output", "escape"},
                                             {"search_path", "nowhere"},
                                             {"standard_conforming_strings", "off"},
                                             {"default_transaction_isolation", "serializable"},
                                             {"default_transaction_read_only", "on"},
                                             {"default_transaction_deferrable", "on"},
                                             {"client_encoding", "LATIN1"},
                                             {"row_security", "off"},
                                             {"lock_timeout", "1"},
                                             {"extra_float_digits", "-15"},
                                             {"array_nulls", "off"},
                                             {"plan_cache_mode", "force_custom_plan"},
                                             {"enable_indexscan", "off"}};
  return settings;
}

std::string runPillion(const TestDatabase& database, std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), PILLION_PROGRAM);
  const auto ended = support::run(
      {.command = arguments, .environment = {{"PILLION_DATABASE_URL", database.url()}}});
  CHECK_MESSAGE(ended.status == 0, arguments[1] << ": " << ended.output);
  return ended.output;
}

}  // namespace

TEST_CASE("the commands do the same whatever the database sets") {
  for (const Setting& setting : toughSettings()) {
    CAPTURE(setting.name);
    const TestDatabase database("pillion", /*migrated=*/false);
    Servers::pg().execute("postgres", "alter database \"" + database.name() + "\" set \"" +
                                          setting.name + "\" = '" + setting.value + "'");
    runPillion(database, {"migrate"});
    Servers::pg().execute("postgres", "alter database \"" + database.name() + "\" reset all");
    Servers::pg().execute(database.name(),
                          "select pillion.publish('a.b', '{}', key => 'ä', source => 's') from"
                          " generate_series(1, 3); select pillion.publish('a', '1', source => 's',"
                          " deliver_at => now() + interval '1 day'); insert into"
                          " pillion.inbox_parked (consumer, event_id, source, key, type, message,"
                          " attempts) values ('grün', gen_random_uuid(), 's', '', 't', '\\x5c00',"
                          " 1)");
    Servers::pg().execute("postgres", "alter database \"" + database.name() + "\" set \"" +
                                          setting.name + "\" = '" + setting.value + "'");
    const auto status = nlohmann::json::parse(runPillion(database, {"status", "--json"}));
    CHECK(status.at("pending") == 3);
    CHECK(status.at("oldest_ms") < 60'000);
    CHECK(status.at("scheduled") == 1);
    CHECK(status.at("consumers").at(0).at("consumer") == "grün");
    CHECK(status.at("consumers").at(0).at("oldest_ms") < 60'000);
    runPillion(database, {"adopt"});
    const std::string replayed = runPillion(
        database, {"replay", "--from", "2020-01-01T00:00:00Z", "--key", "ä", "--dry-run"});
    CHECK(replayed.find("0 events") != std::string::npos);  // none is published
    CHECK(runPillion(database, {"rebase"}).find("3 events are published again") !=
          std::string::npos);
  }
}

namespace {

/// Waits for the relay to publish, as it was, what was written through the database itself.
void checkPublishes(RelayedOutbox& outbox, int n) {
  outbox.publisher->publish(Event("größe", {{"n", n}})
                                .setKey("ä")
                                .setHeader("h", "\\ ' \"")
                                .setExpiresAt(std::chrono::system_clock::now() + 1h));
  outbox.publisher->publish(
      Event("größe", {{"n", n}}).setKey("ä").setDeliverAt(std::chrono::system_clock::now()));
  const auto messages = outbox.queue.read(2);
  CHECK(messages.size() == 2);
  for (const auto& message : messages) {
    const Event event = std::get<Event>(amqp::eventFrom(message));
    CHECK(event.key() == "ä");
    CHECK(event.data().at("n") == n);
    CHECK(std::chrono::abs(event.time() - std::chrono::system_clock::now()) < 60s);
  }
}

}  // namespace

TEST_CASE("behind PgBouncer, too, no setting of the database changes what a relay publishes") {
  for (const Setting& setting : toughSettings()) {
    CAPTURE(setting.name);
    if (setting.name == "default_transaction_read_only") continue;  // waited for, and said
    RelayedOutbox outbox;
    const support::PgBouncer bouncer(Servers::instance().directory / uniqueName("pgbouncer"),
                                     Servers::pg(), 2);
    outbox.publisher->publish(Event("größe", {{"n", 0}}).setKey("ä"));  // its session is older
    CHECK(outbox.database.count("select count(*) from pillion.outbox") == 1);
    const std::string alter = "alter database \"" + outbox.database.name() + "\" ";
    Servers::pg().execute("postgres",
                          alter + "set \"" + setting.name + "\" = '" + setting.value + "'");
    auto options = relayOptions(outbox.database, outbox.exchange);
    options.database.url = bouncer.url(outbox.database.name());
    const auto relay = Relay::create(options);
    try {
      relay->start();
      CHECK(outbox.queue.read(1).size() == 1);
      checkPublishes(outbox, 1);
    } catch (const ConfigError& error) {
      checkOneLine(error);
      CHECK(std::string(error.what()).find(setting.name) != std::string::npos);
      MESSAGE(setting.name << " = " << setting.value << ": " << std::string(error.what()));
    }
  }
}

TEST_CASE("what a neighbour leaves behind in a pooled session changes nothing, or is waited for") {
  for (const Setting& setting : toughSettings()) {
    CAPTURE(setting.name);
    // A checkpoint that could not be written is no fault, but may repeat an event.
    if (setting.name == "default_transaction_read_only") continue;
    RelayedOutbox outbox;
    const support::PgBouncer bouncer(Servers::instance().directory / uniqueName("pgbouncer"),
                                     Servers::pg(), 1);
    auto options = relayOptions(outbox.database, outbox.exchange);
    options.database.url = bouncer.url(outbox.database.name());
    const auto relay = Relay::create(options);
    relay->start();
    checkPublishes(outbox, 1);
    pqxx::connection neighbour(options.database.url);
    const auto say = [&](const std::string& statement) {
      pqxx::work tx{neighbour};
      tx.exec(statement);
      tx.commit();
    };
    say("set \"" + setting.name + "\" = '" + setting.value + "'");
    outbox.publisher->publish(Event("größe", {{"n", 2}}).setKey("ä"));
    const auto early = outbox.queue.read(1, 1s).size();
    say("reset all");
    CHECK(early + outbox.queue.read(1 - early).size() == 1);
    checkPublishes(outbox, 3);
    CHECK(outbox.queue.readFor(50ms).empty());
  }
}
