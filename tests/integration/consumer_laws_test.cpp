// What holds for consumers, whatever a database, a role or a handler has set.
#define PILLION_TEST_MAIN
#include <inbox/postgres_inbox.hpp>
#include <set>

#include "consumer_fixture.hpp"
#include "hostile_settings.hpp"

namespace pillion::test {
namespace {

/// A consumer whose role is not the tables' owner, and whose handler fails while `failing`.
struct Watched : World {
  Watched() {
    database.execute("create role \"" + role +
                     "\" login password 'secret';"
                     "grant all on schema pillion to \"" +
                     role +
                     "\";"
                     "grant all on all tables in schema pillion, public to \"" +
                     role +
                     "\";"
                     "grant all on all sequences in schema pillion, public to \"" +
                     role + "\"");
    auto options = consumerOptions();
    options.database.url = Servers::pg().urlAs(role, "secret", database.name());
    options.retry.maxAttempts = 100'000;
    consumer = EventConsumer::create(uniqueName("watched"), {"#"}, options);
    consumer->onEvent("#", [this](const Event& event, Transaction& tx) {
      if (failing) throw std::runtime_error("not now");
      writeJournal(event, tx);
    });
  }
  /// Starts it and has one event parked.
  void parkOne() {
    consumer->start();
    send(exchange, numberedEvents(1, "a"));
    REQUIRE(eventually(20s, [&] { return parked() == 1; }));
  }
  void alterTable(const std::string& table, const std::string& action) const {
    database.execute("alter table pillion." + table + " " + action);
  }

  std::string role = uniqueName("watched");
  std::atomic<bool> failing{true};
  std::unique_ptr<EventConsumer> consumer;
};

}  // namespace

TEST_CASE("a consumer that row-level security would keep rows from does not start") {
  Watched world;
  for (const std::string table :
       {"inbox", "inbox_parked", "inbox_dead", "inbox_horizon", "migration"}) {
    CAPTURE(table);
    world.alterTable(table, "enable row level security");
    CHECK_THROWS_WITH_AS(world.consumer->start(), doctest::Contains(table.c_str()), SchemaError);
    world.alterTable(table, "disable row level security");
  }
  CHECK_NOTHROW(world.consumer->start());
}

TEST_CASE("row-level security that comes while an event is parked is said, and passes over none") {
  Watched world;
  const LogCapture log;
  world.parkOne();
  world.alterTable("inbox_parked", "enable row level security");
  CHECK(eventually(20s, [&] { return log.count("row-level security") == 1; }));
  world.failing = false;
  CHECK(holdsFor(1s, [&] { return world.journal() == 0; }));
  world.alterTable("inbox_parked", "disable row level security");
  CHECK(eventually(20s, [&] { return world.journal() == 1 && world.parked() == 0; }));
  CHECK(log.count(" goes on") >= 1);
}

TEST_CASE("a policy that lets parked events be read and not removed has none applied twice") {
  Watched world;
  const LogCapture log;
  world.parkOne();
  world.database.execute(
      "create policy readable on pillion.inbox_parked for select using (true);"
      "create policy writable on pillion.inbox_parked for update using (true);"
      "alter table pillion.inbox_parked enable row level security");
  world.failing = false;
  CHECK(eventually(20s, [&] { return log.count("row-level security") == 1; }));
  CHECK(holdsFor(1s, [&] { return world.journal() <= 1; }));
  world.alterTable("inbox_parked", "disable row level security");
  CHECK(eventually(20s, [&] { return world.journal() == 1 && world.parked() == 0; }));
}

TEST_CASE("row-level security on the inbox of a running consumer takes no event for a new one") {
  Watched world;
  world.failing = false;
  const LogCapture log;
  world.consumer->start();
  const auto events = numberedEvents(3, "a");
  send(world.exchange, events[0]);
  REQUIRE(eventually(20s, [&] { return world.journal() == 1; }));
  world.alterTable("inbox", "enable row level security");
  send(world.exchange, events);
  CHECK(eventually(20s, [&] { return log.count("row-level security") == 1; }));
  CHECK(world.journal() == 1);
  world.alterTable("inbox", "disable row level security");
  CHECK(eventually(20s, [&] { return world.journal() == 3; }));
  CHECK(world.journalIds() == 3);
  CHECK(eventually(5s, [&] { return world.consumer->stats().duplicates == 1; }));
}

TEST_CASE("a column that the role may not read is said, and the parked event waits for it") {
  Watched world;
  const LogCapture log;
  world.parkOne();
  world.database.execute(
      "revoke select on pillion.inbox_parked from \"" + world.role +
      "\"; grant select (seq, consumer, event_id, source, key, type, attempts, next_attempt_at,"
      " error, first_failed_at, last_failed_at) on pillion.inbox_parked to \"" +
      world.role + "\"");
  CHECK(eventually(20s, [&] { return log.count("inbox_parked") == 1; }));
  world.failing = false;
  CHECK(holdsFor(1s, [&] { return world.parked() == 1; }));
  world.database.execute("grant select on pillion.inbox_parked to \"" + world.role + "\"");
  CHECK(eventually(20s, [&] { return world.journal() == 1 && world.parked() == 0; }));
  CHECK(world.consumer->stats().deadLettered == 0);
}

namespace {

/// One event that fails, is parked, is tried again and is applied, as a consumer has it; and what
/// is older is forgotten. No broker, so that hundreds of settings can be tried.
void parkAndApply(const DatabaseOptions& options, const Event& event) {
  inbox::PostgresInbox inbox(options, "settings", 14 * 24h);
  const amqp::Identity identity{event.id(), "test", event.key(), event.type()};
  const amqp::Identity* claimed = &identity;
  inbox::Job job;
  job.delivery.message = messageOf(event);
  {
    const auto transaction = inbox.begin();
    const auto claims = transaction->claim(std::span(&claimed, 1), 1s).value();
    REQUIRE(claims.front() == inbox::Claim::New);
    transaction->park(job, identity, {"failed", ""}, 0ms);
    transaction->commit();
  }
  const auto due = inbox.nextDueIn();
  REQUIRE(due);
  const auto parked = inbox.takeDue({});
  REQUIRE(parked);
  CHECK(parked->job.delivery.message.body == event.bytes());
  const auto transaction = inbox.begin();
  const bool locked = transaction->lock(*parked);
  REQUIRE(locked);
  transaction->run([](const Event& one, Transaction& tx) { writeJournal(one, tx); }, event);
  transaction->unpark(*parked, {});
  transaction->commit();
  inbox.forgetOld();
}

}  // namespace

TEST_CASE("no setting of a database keeps a parked event from its handler, or it is said why") {
  const World world;
  const std::string alter = "alter database \"" + world.database.name() + "\" ";
  std::set<std::string> felt;
  int tried = 0;
  for (const Setting& setting : hostileSettings(world.database)) {
    CAPTURE(setting.name);
    CAPTURE(setting.value);
    try {
      world.database.execute(alter + "set \"" + setting.name + "\" = '" + setting.value + "'");
    } catch (const std::runtime_error&) {
      continue;  // PostgreSQL refuses it
    }
    ++tried;
    const Event event = Event("a.b", {{"number", tried}, {"text", "\\ ' ä"}}).setKey("k");
    try {
      parkAndApply(world.database.options(), event);
    } catch (const Error& error) {
      CHECK(std::string(error.what()).find('\n') == std::string::npos);
      felt.insert(setting.name);
      MESSAGE(setting.name << " = " << setting.value << ": " << std::string(error.what()));
    }
    pqxx::connection admin(Servers::pg().url());
    pqxx::nontransaction(admin).exec(alter + "reset all");
    pqxx::connection cleaner(world.database.url());
    pqxx::nontransaction(cleaner).exec("delete from pillion.inbox_parked");
  }
  CHECK(tried > 150);
  CHECK(felt.size() <= 5);
  CHECK(world.journal() >= tried - 8);
}

TEST_CASE("a parked event is tried again by a role whose bytes come in another form") {
  Watched world;
  world.database.execute("alter role \"" + world.role + "\" set bytea_output = 'escape'");
  world.parkOne();
  world.failing = false;
  CHECK(eventually(20s, [&] { return world.journal() == 1 && world.parked() == 0; }));
}

TEST_CASE("a clock of the service's own, before PostgreSQL's, holds no parked event up") {
  Watched world;
  world.database.execute(
      "create schema own; grant usage on schema own to \"" + world.role +
      "\"; create function own.clock_timestamp() returns timestamptz language sql as"
      " $$select '1999-12-31 00:00Z'::timestamptz$$; alter role \"" +
      world.role + "\" set search_path = own, public, pg_catalog");
  world.parkOne();
  world.failing = false;
  CHECK(eventually(20s, [&] { return world.journal() == 1 && world.parked() == 0; }));
}

TEST_CASE("a handler that resets its session costs nothing but one more connection") {
  for (const std::string reset : {"discard all", "deallocate all"}) {
    CAPTURE(reset);
    const World world;
    const auto consumer =
        EventConsumer::create(uniqueName("resetting"), {"#"}, world.consumerOptions());
    consumer->onEvent("#", [&](const Event& event, Transaction& tx) {
      writeJournal(event, tx);
      if (reset == "deallocate all") tx.exec(reset);  // the other is refused in a transaction
    });
    consumer->start();
    for (int i = 0; i < 5; ++i) send(world.exchange, numberedEvents(2, "a"));
    CHECK(eventually(30s, [&] { return world.journal() == 10; }));
    CHECK(world.journalIds() == 10);
    CHECK(consumer->stats().deadLettered == 0);
  }
}

TEST_CASE("savepoints and prepared statements that a handler calls as Pillion's disturb none") {
  const World world;
  const auto consumer =
      EventConsumer::create(uniqueName("namesake"), {"#"}, world.consumerOptions());
  consumer->onEvent("#", [&](const Event& event, Transaction& tx) {
    tx.exec("savepoint pillion_handlers");
    writeJournal(event, tx, "rolled back");
    tx.exec("rollback to savepoint pillion_handlers");
    writeJournal(event, tx, "kept");
    tx.exec("release savepoint pillion_handlers");
    tx.exec("deallocate all; prepare pillion_claim as select 1");
  });
  consumer->start();
  for (int i = 0; i < 5; ++i) send(world.exchange, numberedEvents(2, "a"));
  CHECK(eventually(30s, [&] { return world.journal() == 10; }));
  CHECK(world.journalIds() == 10);
  CHECK(world.database.count("select count(*) from journal where note = 'kept'") == 10);
  CHECK(consumer->stats().deadLettered == 0);
}

}  // namespace pillion::test
