#define PILLION_TEST_MAIN
#include <algorithm>
#include <future>
#include <outbox/postgres_event_log.hpp>

#include "fixture.hpp"

// That a relay which goes to sleep knows of every writer that may not have seen it.

using namespace pillion;
using namespace pillion::test;

TEST_CASE("a writer that took its transaction id while the flag went up is seen by the next look") {
  const TestDatabase database;
  database.execute(
      "select pillion.enable_notify(true);"
      // As it is, but that it waits between taking a transaction id, which setval() does first, and
      // setting the flag.
      "create or replace function pillion.raise_idle_flag() returns void language plpgsql as $$ "
      "begin"
      " perform pg_current_xact_id(); perform pg_advisory_xact_lock_shared(7);"
      " perform setval('pillion.idle_flag', 1); end $$");
  outbox::PostgresEventLog log(
      {.database = database.options(), .relayName = "test", .lease = 15s, .pageBytes = 1'000'000});
  const outbox::Cursor cursor = log.balance().taken;
  auto gate = database.connect();
  pqxx::work gateTx{gate};
  gateTx.exec("select pg_advisory_xact_lock(7)");
  auto raised = std::async(std::launch::async, [&] { log.setIdle(true); });
  REQUIRE(eventually(10s, [&] {
    return database.count(
               "select count(*) from pg_locks where locktype = 'advisory'"
               " and not granted") == 1;
  }));
  auto writer = database.connect();
  pqxx::work writerTx{writer};
  writerTx.exec("select pillion.publish('a.b', '1', source => 's')");  // reads that nobody sleeps
  const auto xid = writerTx.exec("select pg_current_xact_id()")[0][0].as<std::uint64_t>();
  gateTx.commit();
  raised.get();
  CHECK(database.count("select last_value from pillion.idle_flag") == 1);
  const outbox::Page look = log.fetch(cursor, 100);
  CHECK(look.rows.empty());
  for (const outbox::Position& position : look.after.positions) {
    const auto& writers = position.done.inProgress;
    CHECK(std::ranges::find(writers, xid) != writers.end());
  }
  writerTx.commit();
}
