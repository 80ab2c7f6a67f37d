#define PILLION_TEST_MAIN
#include <algorithm>
#include <outbox/outbox_table.hpp>
#include <outbox/postgres_event_log.hpp>
#include <pillion/migrator.hpp>
#include <set>
#include <thread>

#include "fixture.hpp"

// What holds whatever a database, a role or a neighbour has set: refused in one line, or not felt.

using namespace pillion;
using namespace pillion::test;

namespace {

outbox::EventLogOptions logOptions(const DatabaseOptions& database) {
  return {.database = database, .relayName = "laws", .lease = 60s, .pageBytes = 1U << 20};
}

/// What opening the outbox as a relay does is refused with; empty when it is not.
std::string refusal(const DatabaseOptions& database) {
  try {
    const outbox::PostgresEventLog log(logOptions(database));
    return "";
  } catch (const SchemaError& error) {
    return error.what();
  }
}

void publishSome(const TestDatabase& database, int events, const std::string& schema = "pillion") {
  database.execute(
      "select " + schema +
      ".publish('a.b', '{}', key => 'k' || n, source => 's') from generate_series(1, " +
      std::to_string(events) + ") n");
}

int runPillion(const std::vector<std::string>& arguments, const TestDatabase& database,
               std::string& output, const std::string& schema = "pillion") {
  std::vector<std::string> command{PILLION_PROGRAM};
  command.insert(command.end(), arguments.begin(), arguments.end());
  const auto ended = support::run(
      {.command = command,
       .environment = {{"PILLION_DATABASE_URL", database.url()}, {"PILLION_SCHEMA", schema}}});
  output = ended.output;
  return ended.status;
}

}  // namespace

TEST_CASE("turning the ring never sets the sequence back, whoever writes meanwhile") {
  const TestDatabase database;
  publishSome(database, 1);
  std::atomic<bool> enough{false};
  std::atomic<long> backwards{0};
  std::thread writer([&] {
    auto connection = database.connect();
    for (long last = 0; !enough;) {
      pqxx::work tx{connection};
      const long id = tx.exec(
                            "select max(nextval('pillion.outbox_id_seq')) from"
                            " generate_series(1, 1000)")[0][0]
                          .as<long>();
      if (id <= last) ++backwards;
      last = id;
      tx.commit();
    }
  });
  std::vector<std::thread> turners;
  for (int t = 0; t < 2; ++t) {
    turners.emplace_back([&] {
      auto connection = database.connect();
      for (int i = 0; i < 12; ++i) {
        pqxx::work tx{connection};
        outbox::rotateRing(tx, "pillion", 0s);
        tx.commit();
      }
    });
  }
  for (auto& turner : turners) turner.join();
  enough = true;
  writer.join();
  CHECK(backwards == 0);
  CHECK(database.count("select count(*) from pg_proc where prosrc ~ 'setval\\(''outbox_id_seq'") ==
        0);
  CHECK(database.count("select last_value from pillion.outbox_id_seq") > 1 << 22);
}

TEST_CASE("a sequence never seems to go back, and no number of it comes early") {
  const TestDatabase database;
  publishSome(database, 1);
  std::atomic<bool> enough{false};
  std::thread writer([&] {
    auto connection = database.connect();
    while (!enough) {
      pqxx::nontransaction tx{connection};
      tx.exec("select nextval('pillion.outbox_id_seq') from generate_series(1, 40)");
    }
  });
  auto connection = database.connect();
  int backwards = 0;
  std::int64_t last = 0;
  for (int i = 0; i < 20'000; ++i) {
    pqxx::nontransaction tx{connection};
    const std::int64_t now = outbox::lastEventId(tx, "pillion");
    if (now < last) ++backwards;
    last = now;
  }
  enough = true;
  writer.join();
  CHECK(backwards == 0);
  // Nor is any read in another way; setval, which alone writes the flag, shows nothing early.
  CHECK(database.count("select count(*) from pg_proc where pronamespace = 'pillion'::regnamespace"
                       " and prosrc ~ 'last_value from' and prosrc !~ 'idle_flag'") == 0);
}

TEST_CASE("a sequence that is behind its rows stops the relay, and rebase sets it forward") {
  const TestDatabase database;
  const auto name = [&](const std::string& of) { return "pillion." + of; };
  std::string sequence;
  SUBCASE("of the events") {
    publishSome(database, 3);
    sequence = "outbox_id_seq";
  }
  SUBCASE("of the events that are due later") {
    database.execute(
        "select pillion.publish('a', '{}', source => 's', deliver_at => now() + interval '1 day')"
        " from generate_series(1, 3)");
    sequence = "scheduled_id_seq";
  }
  SUBCASE("of the relays") {
    database.execute(
        "insert into pillion.relay (token, name, backend_pid, expires_at)"
        " values (3, 'r', 0, now() + interval '1 hour')");
    sequence = "relay_token_seq";
  }
  database.execute("select setval('" + name(sequence) + "', 1, false)");
  const std::string line = refusal(database.options());
  CHECK(line.find(name(sequence)) != std::string::npos);
  CHECK(line.find("pillion rebase") != std::string::npos);
  CHECK_THROWS_AS(adoptCluster(database.options()), SchemaError);
  rebaseCursor(database.options());
  CHECK(database.count("select last_value from " + name(sequence)) == 3);
  CHECK(refusal(database.options()).empty());
}

TEST_CASE("a sequence that is ahead stays where it is when the cursor is rebased") {
  const TestDatabase database;
  publishSome(database, 3);
  database.execute("select setval('pillion.outbox_id_seq', 1000)");
  rebaseCursor(database.options());
  CHECK(database.count("select last_value from pillion.outbox_id_seq") == 1000);
}

TEST_CASE("the sequences of the inbox's tables are compared and set forward, too") {
  const TestDatabase database;
  database.execute(
      "insert into pillion.inbox_parked (consumer, event_id, source, key, type, message, attempts)"
      " select 'c', gen_random_uuid(), 's', '', 't', '', 1 from generate_series(1, 3);"
      " select setval('pillion.inbox_parked_seq_seq', 1);"
      " insert into pillion.inbox_dead (consumer, message, reason, error, attempts)"
      " select 'c', '', 'r', '', 1 from generate_series(1, 3);"
      " select setval('pillion.inbox_dead_seq_seq', 1)");
  rebaseCursor(database.options());
  CHECK(database.count("select nextval('pillion.inbox_dead_seq_seq')") == 4);
  CHECK(database.count("select nextval('pillion.inbox_parked_seq_seq')") == 4);
}

TEST_CASE("a lane outside 0 to 63 cannot be written; a row that has one is read in a lane") {
  const TestDatabase database;
  const auto insert = [&](const std::string& lane) {
    database.execute(
        "insert into pillion.outbox (lane, event_id, type, source, key, time,"
        " content_type, payload) values (" +
        lane +
        ", gen_random_uuid(), 'a.b', 's',"
        " 'k', now(), 'application/json', '{}')");
  };
  for (const std::string lane : {"64", "30000", "32767", "-1", "-32768"}) {
    CAPTURE(lane);
    CHECK_THROWS(insert(lane));
  }
  CHECK_NOTHROW(insert("0"));
  CHECK_NOTHROW(insert("63"));
  // As an older or mended table might hold it.
  database.execute("alter table pillion.outbox alter lane type smallint");
  for (const std::string lane : {"64", "30000", "-1"}) insert(lane);
  CHECK(readOutboxStatus(database.options()).pending == 5);
  outbox::PostgresEventLog log(logOptions(database.options()));
  const auto page = log.fetch(log.balance().taken, 10);
  REQUIRE(page.rows.size() == 5);
  for (const Row& row : page.rows) {
    CHECK(row.lane >= 0);
    CHECK(row.lane < outbox::kLanes);
  }
  // Unpublished, so not emptied when the sequence has gone on.
  database.execute("select setval('pillion.outbox_id_seq', 3 * 4194304)");
  CHECK(database.query("select pillion.truncate_published(0)") == "unpublished");
}

TEST_CASE("row-level security on any table is refused and skips nothing") {
  const TestDatabase database;
  const std::string role = uniqueName("watched");
  database.execute("create role \"" + role +
                   "\" login password 'secret';"
                   " grant usage on schema pillion to \"" +
                   role +
                   "\";"
                   " grant all on all tables in schema pillion to \"" +
                   role +
                   "\";"
                   " grant all on all sequences in schema pillion to \"" +
                   role + "\"");
  const DatabaseOptions as{.url = Servers::pg().urlAs(role, "secret", database.name()),
                           .schema = "pillion"};
  publishSome(database, 3);
  outbox::PostgresEventLog running(logOptions(as));
  const auto cursor = running.balance().taken;
  for (const std::string table :
       {"outbox", "scheduled", "lane", "relay", "parked", "meta", "inbox", "inbox_parked",
        "inbox_dead", "inbox_horizon", "migration", "suspect"}) {
    CAPTURE(table);
    database.execute("alter table pillion." + table + " enable row level security");
    const std::string line = refusal(as);
    CHECK(line.find("row-level security") != std::string::npos);
    CHECK_THROWS_AS((void)readOutboxStatus(as), SchemaError);
    if (table == "outbox") CHECK_THROWS_AS(running.fetch(cursor, 10), DatabaseError);
    database.execute("alter table pillion." + table + " disable row level security");
  }
  CHECK(refusal(as).empty());
  CHECK(running.fetch(cursor, 10).rows.size() == 3);
}

TEST_CASE("a renamed schema is refused until migrate has mended its functions") {
  for (const std::string name : {"service_a", "My \"own\" schema's"}) {
    CAPTURE(name);
    const TestDatabase database;
    std::string quoted = "\"";
    for (const char c : name) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
    quoted += '"';
    database.execute("alter schema pillion rename to " + quoted);
    Migrator({.url = database.url(), .schema = "pillion"}).migrate();  // another service moves in
    const DatabaseOptions renamed{.url = database.url(), .schema = name};
    CHECK(refusal(renamed).find("renamed or copied") != std::string::npos);
    CHECK(refusal(renamed).find("pillion migrate") != std::string::npos);
    CHECK(refusal(database.options()).empty());
    std::string output;
    REQUIRE(runPillion({"migrate"}, database, output, name) == 0);
    CHECK(refusal(renamed).empty());
    publishSome(database, 1, quoted);
    CHECK(database.count("select count(*) from " + quoted + ".outbox") == 1);
    CHECK(database.count("select count(*) from pillion.outbox") == 0);
  }
}

TEST_CASE("a copy can be given an identity of its own") {
  const TestDatabase database;
  const auto identity = [&] {
    return outbox::PostgresEventLog(logOptions(database.options())).identity();
  };
  const std::string before = identity();
  adoptCluster(database.options());
  CHECK(identity() == before);
  adoptCluster(database.options(), /*newIdentity=*/true);
  const std::string after = identity();
  CHECK(after != before);
  std::string output;
  CHECK(runPillion({"adopt", "--new-identity"}, database, output) == 0);
  CHECK(identity() != after);
}

TEST_CASE("somebody's advisory locks keep nothing of ours waiting") {
  const TestDatabase database;
  auto neighbour = database.connect();
  pqxx::work tx{neighbour};
  tx.exec(
      "select pg_advisory_xact_lock('pillion.outbox'::regclass::oid::bigint),"
      " pg_advisory_xact_lock('pillion.scheduled'::regclass::oid::bigint),"
      " pg_advisory_xact_lock(hashtextextended('pillion migrate pillion', 0))");
  database.execute("select pillion.publish('a', '{}', source => 's', deliver_at => now())");
  CHECK(database.count("select moved from pillion.move_due(10, 1000)") == 1);
  CHECK(Migrator(database.options()).migrate().empty());
}

TEST_CASE("migrate waits for a lock no longer than some seconds, and names who holds it") {
  const TestDatabase database;
  auto holder = database.connect();
  pqxx::work tx{holder};
  tx.exec("set local application_name = 'old report'; lock table pillion.migration");
  const std::string pid = tx.exec("select pg_backend_pid()")[0][0].as<std::string>();
  std::string output;
  CHECK(runPillion({"migrate"}, database, output) == 1);
  CHECK(output.find("pid " + pid + " (old report") != std::string::npos);
}

TEST_CASE("the wake-up trigger is refused where transactions may be prepared, unless one insists") {
  const TestDatabase database;
  REQUIRE(database.count("select current_setting('max_prepared_transactions')") > 0);
  CHECK_THROWS_WITH(database.execute("select pillion.enable_notify()"),
                    doctest::Contains("max_prepared_transactions"));
  CHECK_NOTHROW(database.execute("select pillion.enable_notify(true)"));
}

TEST_CASE("every table that is updated or deleted from has a replica identity") {
  const TestDatabase database;
  CHECK(database.query(
            "select coalesce(string_agg(c.relname, ' '), '') from pg_class c where c.relnamespace ="
            " 'pillion'::regnamespace and c.relkind = 'r' and not (c.relreplident in ('i', 'f') or"
            " exists (select from pg_index i where i.indrelid = c.oid and i.indisprimary))") == "");
}

TEST_CASE("with a publication for all tables everything that updates or deletes still works") {
  support::TemporaryDirectory directory;
  const support::PostgresServer server{directory / "postgres",
                                       {.settings = {{"wal_level", "logical"}}}};
  server.createDatabase("published");
  const DatabaseOptions options{.url = server.url("published"), .schema = "pillion"};
  Migrator(options).migrate();
  const auto run = [&](const std::string& sql) { server.execute("published", sql); };
  run("create publication everything for all tables");
  run("select pillion.publish('a.b', '{}', key => 'k', source => 's') from generate_series(1, 3)");
  run("select pillion.publish('a', '{}', source => 's', deliver_at => now())");
  CHECK(server.query("published", "select moved from pillion.move_due(10, 1000)") == "1");
  {
    outbox::PostgresEventLog log(logOptions(options));
    auto cursor = log.balance().taken;
    const auto page = log.fetch(cursor, 10);
    CHECK(page.rows.size() == 4);
    log.checkpoint({.cursor = page.after, .cursorMoved = true, .give = {}, .parked = {}});
    log.release();
  }
  CHECK(rebaseCursor(options).republished == 4);
  // What a consumer deletes and updates: an id of each version, a parked event, the horizon.
  run("insert into pillion.inbox (consumer, event_id, source) values ('c', pillion.new_event_id(),"
      " 's'), ('c', gen_random_uuid(), 's')");
  CHECK_NOTHROW(run("delete from pillion.inbox"));
  run("insert into pillion.inbox_parked (consumer, event_id, source, key, type, message, attempts)"
      " values ('c', gen_random_uuid(), 's', '', 't', '', 1)");
  CHECK_NOTHROW(
      run("update pillion.inbox_parked set attempts = 2; delete from"
          " pillion.inbox_parked; update pillion.inbox_horizon set horizon = now()"));
  run("insert into pillion.inbox_dead (consumer, message, reason, error, attempts) values ('c', '',"
      " 'r', '', 1)");
  CHECK_NOTHROW(
      run("update pillion.inbox_dead set next_send_at = now(); delete from pillion.inbox_dead"));
}

TEST_CASE("the row of a lane that is missing stops relays, empties nothing, and rebase mends it") {
  const TestDatabase database;
  publishSome(database, 300);
  database.execute("delete from pillion.lane where lane in (5, 63)");
  const std::string line = refusal(database.options());
  CHECK(line.find("62 of its 64") != std::string::npos);
  CHECK(line.find("pillion rebase") != std::string::npos);
  CHECK_THROWS_AS((void)readOutboxStatus(database.options()), SchemaError);
  // All that a relay could read is published: what is left is nobody's, and must not be emptied.
  database.execute(
      "update pillion.lane set done = pg_current_snapshot();"
      " select setval('pillion.outbox_id_seq', 3 * 4194304)");
  CHECK(database.query("select pillion.truncate_published(0)") == "unpublished");
  CHECK(rebaseCursor(database.options()).republished == 300);
  CHECK(refusal(database.options()).empty());
  CHECK(readOutboxStatus(database.options()).pending == 300);
}

TEST_CASE("a part of a table that was detached is named at the start, until it is attached again") {
  const TestDatabase database;
  publishSome(database, 3);
  database.execute("alter table pillion.outbox detach partition pillion.outbox_0");
  CHECK(refusal(database.options()).find("outbox_0 was detached") != std::string::npos);
  CHECK_THROWS_AS((void)readOutboxStatus(database.options()), SchemaError);
  CHECK_THROWS_AS(rebaseCursor(database.options()), SchemaError);
  database.execute(
      "alter table pillion.outbox attach partition pillion.outbox_0 for values in (0)");
  CHECK(refusal(database.options()).empty());
  CHECK(readOutboxStatus(database.options()).pending == 3);
  database.execute("alter table pillion.inbox detach partition pillion.inbox_other");
  CHECK(refusal(database.options()).find("inbox_other was detached") != std::string::npos);
}

TEST_CASE("row-level security that is forced on the owner is refused, and BYPASSRLS passes it") {
  const TestDatabase database("pillion", /*migrated=*/false);
  const std::string owner = uniqueName("owner");
  database.execute("create role \"" + owner +
                   "\" login password 'secret'; create schema pillion authorization \"" + owner +
                   "\"");
  const DatabaseOptions as{.url = Servers::pg().urlAs(owner, "secret", database.name()),
                           .schema = "pillion"};
  Migrator(as).migrate();
  for (const std::string table : {"outbox", "lane", "parked", "scheduled"}) {
    CAPTURE(table);
    database.execute("alter table pillion." + table + " enable row level security");
    CHECK(refusal(as).empty());  // it does not apply to an owner
    database.execute("alter table pillion." + table + " force row level security");
    CHECK(refusal(as).find("row-level security applies to this role on " + table) !=
          std::string::npos);
    database.execute("alter role \"" + owner + "\" bypassrls");
    CHECK(refusal(as).empty());
    database.execute("alter role \"" + owner + "\" nobypassrls");
    database.execute("alter table pillion." + table + " disable row level security");
  }
}

namespace {

/// The database as a role sees it that owns nothing and has all rights.
DatabaseOptions asOther(const TestDatabase& database) {
  const std::string role = uniqueName("other");
  for (const std::string grant : {"usage on schema pillion", "all on all tables in schema pillion",
                                  "all on all sequences in schema pillion"}) {
    database.execute((grant.starts_with("usage")
                          ? "create role \"" + role + "\" login password 'secret';"
                          : std::string()) +
                     "grant " + grant + " to \"" + role + "\"");
  }
  return {.url = Servers::pg().urlAs(role, "secret", database.name()), .schema = "pillion"};
}

}  // namespace

TEST_CASE("row-level security under a running relay: no lane, parked or due event is passed over") {
  RelayedOutbox outbox;
  const DatabaseOptions as = asOther(outbox.database);
  auto options = relayOptions(as, outbox.exchange);
  options.lease = 3s;
  options.renewEvery = 200ms;
  const auto relay = Relay::create(options);
  relay->start();
  int n = 0;
  std::set<std::string> arrived;  // what was published and not noted comes twice
  const auto read = [&](std::chrono::milliseconds time) {
    for (const auto& message : outbox.queue.readFor(time)) arrived.insert(message.messageId);
  };
  for (const std::string table : {"scheduled", "parked", "lane", "relay", "outbox"}) {
    CAPTURE(table);
    outbox.database.execute("alter table pillion." + table + " enable row level security");
    outbox.publisher->publish(Event("t", {{"n", ++n}}).setKey("k"));
    outbox.publisher->publish(
        Event("t", {{"n", ++n}}).setDeliverAt(std::chrono::system_clock::now()));
    read(1s);
    outbox.database.execute("alter table pillion." + table + " disable row level security");
    CHECK(eventually(20s, [&] {
      read(200ms);
      return arrived.size() == static_cast<std::size_t>(n);
    }));
  }
  CHECK(eventually(20s, [&] { return drained(outbox.database); }));
}

TEST_CASE("a clone of a database in its cluster is an outbox of its own, beside the other") {
  const TestDatabase original;
  publishSome(original, 3);
  const std::string name = uniqueName("clone");
  Servers::pg().execute("postgres",
                        "create database \"" + name + "\" template \"" + original.name() + "\"");
  const DatabaseOptions clone{.url = Servers::pg().url(name), .schema = "pillion"};
  const std::string exchange = uniqueName("exchange");
  TestQueue queue(exchange);
  const auto first = Relay::create(relayOptions(original.options(), exchange));
  const auto second = Relay::create(relayOptions(clone, exchange));
  first->start();
  second->start();
  CHECK(queue.read(6).size() == 6);  // what was pending is in both
  publishSome(original, 5);
  Servers::pg().execute(name, "select pillion.publish('a.b', '{}', source => 'clone')");
  const auto messages = queue.read(6);
  CHECK(std::ranges::count(messages, "clone", &amqp::Message::appId) == 1);
  CHECK(queue.readFor(200ms).empty());
}

TEST_CASE("a schema that is renamed under a running relay loses nothing, and is found again") {
  RelayedOutbox outbox;
  outbox.relay->start();
  publishSome(outbox.database, 3);
  CHECK(outbox.queue.read(3).size() == 3);
  outbox.database.execute("alter schema pillion rename to other");
  Migrator({.url = outbox.database.url(), .schema = "pillion"}).migrate();  // somebody moves in
  publishSome(outbox.database, 2, "pillion");
  CHECK(outbox.queue.read(2).size() == 2);
  outbox.database.execute("alter schema pillion rename to newer");
  outbox.database.execute("alter schema other rename to pillion");
  publishSome(outbox.database, 4);
  CHECK(outbox.queue.read(4).size() == 4);
  CHECK(outbox.database.count("select count(*) from newer.outbox") == 2);
  CHECK(eventually(20s, [&] { return drained(outbox.database); }));
}
