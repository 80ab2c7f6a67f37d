#define PILLION_TEST_MAIN
#include <memory>
#include <outbox/postgres_event_log.hpp>

#include "fixture.hpp"

// Where the cursor stands in the database: one row for the lanes of a relay that are at one place,
// and none lost when they change hands.

using namespace pillion;
using namespace pillion::test;

namespace {

outbox::EventLogOptions logOptions(const TestDatabase& database, const std::string& name) {
  return {.database = database.options(), .relayName = name, .lease = 60s, .pageBytes = 1U << 20};
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
  outbox::Cursor after = log.fetch(from, 10).after;
  log.checkpoint({.cursor = after, .cursorMoved = true, .give = {}, .parked = {}});
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
    left -= static_cast<int>(next.fetch(taken, 10).rows.size());
    taken = pass(next, taken);
  }
  CHECK(left == 0);
}

TEST_CASE("a page holds no more than was asked for when lanes are at several places") {
  const TestDatabase database;
  outbox::PostgresEventLog log(logOptions(database, "one"));
  outbox::Cursor cursor = log.balance().taken;
  for (const outbox::Lanes ahead : {outbox::Lanes{0xffff}, outbox::Lanes{0xffff0000}}) {
    database.execute("select pg_current_xact_id()");  // or the next snapshot is the same
    cursor.add(log.fetch(cursor.take(ahead), 10).after);
  }
  REQUIRE(cursor.positions.size() == 3);
  publish(database, 40);
  std::set<std::int64_t> ids;
  outbox::Page page;
  do {
    page = log.fetch(cursor, 1);
    REQUIRE(page.rows.size() <= 1);
    for (const Row& row : page.rows) CHECK(ids.insert(row.id).second);
    cursor = page.after;
    CHECK(cursor.lanes() == outbox::kAllLanes);
  } while (page.more || !page.rows.empty());
  CHECK(ids.size() == 40);
  CHECK(cursor.positions.size() == 1);
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
  outbox::Cursor after = log.fetch(cursor, 10).after;
  after.take(some);
  log.checkpoint({.cursor = after, .cursorMoved = true, .give = cursor.take(some), .parked = {}});
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
