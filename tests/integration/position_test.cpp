#define PILLION_TEST_MAIN
#include <memory>
#include <migrate/migration_table.hpp>
#include <outbox/postgres_event_log.hpp>
#include <pillion/migrator.hpp>
#include <set>

#include "fixture.hpp"

// Where the cursor stands in the database: one row for the lanes of a relay that are at one place,
// and none lost when they change hands.

using namespace pillion;
using namespace pillion::test;

namespace {

outbox::EventLogOptions logOptions(const TestDatabase& database, const std::string& name) {
  return {.database = database.options(),
          .relayName = name,
          .lease = 60s,
          .pageEvents = 10,
          .pageBytes = 1U << 20,
          .retention = 1h};
}

void publish(const TestDatabase& database, int events) {
  const auto publisher = EventPublisher::create("s", {.database = database.options()});
  auto connection = database.connect();
  pqxx::work tx{connection};
  for (int n = 0; n < events; ++n) {
    publisher->publish(tx, Event("t", {{"n", n}}).setKey("key-" + std::to_string(n)));
  }
  tx.commit();
}

/// Every row of a table with its place: a write shows even if it wrote what was there before.
std::string rowsOf(const TestDatabase& database, const std::string& table) {
  return database.query(
      "select string_agg(t.ctid::text || t::text, ' ' order by t.ctid) from pillion." + table +
      " t");
}

/// Where the lanes of a set are, whoever holds them.
std::string positions(const TestDatabase& database, outbox::Lanes lanes = outbox::kAllLanes) {
  return database.query(
      "select string_agg(concat_ws(' ', lane, done, target, last_id, floor_id), ',' order by lane)"
      " from pillion.lane_position where (" +
      outbox::lanesText(lanes) + "::bigint >> lane::int) & 1 = 1");
}

long joined(const TestDatabase& database) {
  return database.count("select count(*) from pillion.lane where done is null");
}

/// Reads a page and writes that it is settled.
outbox::Cursor pass(outbox::PostgresEventLog& log, const outbox::Cursor& from) {
  outbox::Cursor after = log.fetch(from).after;
  REQUIRE(log.checkpoint({.cursor = after, .cursorMoved = true, .give = {}, .parked = {}}));
  return after;
}

}  // namespace

TEST_CASE("while events flow, a checkpoint writes the relay's row and no lane's") {
  const TestDatabase database;
  const std::string exchange = uniqueName("exchange");
  TestQueue queue(exchange);
  auto options = relayOptions(database, exchange);
  options.checkpointEvery = 20ms;
  const auto relay = Relay::create(options);
  relay->start();
  publish(database, 100);
  REQUIRE(queue.read(100).size() == 100);
  REQUIRE(eventually(10s, [&] { return joined(database) == 64; }));
  const std::string lanes = rowsOf(database, "lane");
  for (int round = 0; round < 5; ++round) {
    const std::string before = rowsOf(database, "relay");
    const std::string place = positions(database);
    publish(database, 100);
    CHECK(eventually(10s, [&] { return positions(database) != place && drained(database); }));
    CHECK(rowsOf(database, "relay") != before);
  }
  CHECK(rowsOf(database, "lane") == lanes);
  CHECK(queue.read(500).size() == 500);
}

TEST_CASE("lanes that are taken over begin where their relay's row said") {
  const TestDatabase database;
  auto killed = std::make_unique<outbox::PostgresEventLog>(logOptions(database, "killed"));
  outbox::Cursor cursor = killed->balance().taken;
  publish(database, 25);
  int left = 0;
  SUBCASE("inside a backlog") {
    cursor = pass(*killed, cursor);
    REQUIRE(cursor.positions.at(0).paging());
    left = 15;
  }
  SUBCASE("after it") {
    for (int page = 0; page < 3; ++page) cursor = pass(*killed, cursor);
    REQUIRE_FALSE(cursor.positions.at(0).paging());
  }
  REQUIRE(joined(database) == 64);
  CHECK(readOutboxStatus(database.options()).pending == static_cast<std::uint64_t>(left));
  const std::string before = positions(database);
  killed.reset();

  outbox::PostgresEventLog next(logOptions(database, "next"));
  outbox::Cursor taken;
  REQUIRE(eventually(10s, [&] {  // until the session has ended
    taken.add(next.balance().taken);
    return taken.lanes() == outbox::kAllLanes;
  }));
  CHECK(positions(database) == before);
  CHECK(joined(database) == 0);
  CHECK(database.query("select string_agg(name, ' ') from pillion.relay") == "next");
  REQUIRE(taken.positions.size() == 1);
  CHECK(taken.positions[0].samePlace(cursor.positions[0]));
  for (std::size_t page = 0; page < 3; ++page) {
    left -= static_cast<int>(next.fetch(taken).rows.size());
    taken = pass(next, taken);
  }
  CHECK(left == 0);
}

TEST_CASE("lanes that are given away, and those that a relay leaves behind, keep their positions") {
  const TestDatabase database;
  outbox::PostgresEventLog log(logOptions(database, "one"));
  publish(database, 25);
  outbox::Cursor cursor = pass(log, log.balance().taken);
  REQUIRE(joined(database) == 64);
  const outbox::Lanes some = 0xff00;
  const std::string before = positions(database, some);

  // They are given where they are, while the others move on.
  outbox::Cursor after = log.fetch(cursor).after;
  after.take(some);
  REQUIRE(log.checkpoint(
      {.cursor = after, .cursorMoved = true, .give = cursor.take(some), .parked = {}}));
  CHECK(positions(database, some) == before);
  CHECK(positions(database, ~some).find(" 20 ") != std::string::npos);
  CHECK(joined(database) == 56);
  CHECK(database.count("select count(*) from pillion.lane where token is null") == 8);

  const std::string all = positions(database);
  log.release();
  CHECK(positions(database) == all);
  CHECK(joined(database) == 0);
  CHECK(database.count("select count(token) + (select count(*) from pillion.relay) from"
                       " pillion.lane") == 0);
}

TEST_CASE("an outbox with lanes that are held, in a backlog, or nobody's goes on when migrated") {
  const TestDatabase database("pillion", /*migrated=*/false);
  {
    auto connection = database.connect();
    pqxx::work tx{connection};
    migrate::lockAndCreate(tx, "pillion");
    for (const Migration& migration : Migrator::known()) {
      if (migration.version <= 7) migrate::apply(tx, "pillion", migration);
    }
    tx.commit();
  }
  const auto write = [&](int first, int last) {
    database.execute(
        "insert into pillion.outbox (event_id, type, source, time, content_type, payload)"
        " select pillion.new_event_id(), 't', 's', now(), 'application/json',"
        " convert_to('{\"n\": ' || n || '}', 'UTF8') from generate_series(" +
        std::to_string(first) + ", " + std::to_string(last) + ") n");
  };
  write(1, 5);  // published
  database.execute(
      "insert into pillion.relay (name, backend_pid, expires_at) values ('old', 0, now())");
  database.execute(
      "update pillion.lane set done = pg_current_snapshot(),"
      " token = case when lane < 40 then (select token from pillion.relay) end;"
      " update pillion.lane set token = 1000 where lane = 63");
  write(6, 15);
  // Those that are held are inside the backlog: up to the eighth everything is published.
  database.execute(
      "update pillion.lane set target = pg_current_snapshot(), last_id = 8 where lane < 40");
  const auto published = [&](const std::string& lanes) {
    return database.query(
        "select coalesce(string_agg(o.id::text, ' ' order by o.id), '') from pillion.outbox o "
        "join " +
        lanes +
        " l on l.lane = pillion.lane_of(o.lane, o.key, o.id) where"
        " pillion.is_published(o.xid, o.id, l)");
  };
  const std::string before = published("pillion.lane");
  CHECK(before.starts_with("1 2 3 4 5 6 7 8"));
  Migrator(database.options()).migrate();
  CHECK(published("pillion.lane_position") == before);

  const std::string exchange = uniqueName("exchange");
  TestQueue queue(exchange);
  const auto relay = Relay::create(relayOptions(database, exchange));
  relay->start();
  std::set<int> numbers;
  for (const auto& message : queue.read(7)) {
    numbers.insert(nlohmann::json::parse(message.body).at("n").get<int>());
  }
  CHECK(numbers == std::set<int>{9, 10, 11, 12, 13, 14, 15});
  CHECK(queue.readFor(300ms).empty());
  CHECK(eventually(10s, [&] { return drained(database) && joined(database) == 64; }));
}
