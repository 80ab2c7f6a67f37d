#define PILLION_TEST_MAIN
#include <algorithm>
#include <csignal>
#include <outbox/postgres_event_log.hpp>

#include "support/process_table.hpp"
#include "versioned_flow.hpp"

// A relay that was paused and replaced: what the database and the broker refuse it, and what the
// broker refuses its successor meanwhile.

using namespace pillion;
using namespace pillion::test;

namespace {

/// Every row of these tables with the transaction that wrote it: a write shows even if it wrote
/// what was there before.
std::string rowsOf(const TestDatabase& database, const std::string& table) {
  return database.query(
      "select coalesce(string_agg(t.xmin || t.ctid::text || t::text, ' ' order by"
      " t::text), '') from pillion." +
      table + " t");
}

std::string cursorRows(const TestDatabase& database) {
  return rowsOf(database, "lane") + '\n' + rowsOf(database, "parked") + '\n' +
         database.query(
             "select string_agg(p::text, ' ' order by lane) from pillion.lane_position p");
}

struct Setup : WatchedFlow {
  /// What is on its way.
  void readUntilQuiet() {
    for (std::size_t before = arrivals.deliveries() + 1; before != arrivals.deliveries();) {
      before = arrivals.deliveries();
      arrivals.readFor(1s);
    }
  }

  /// Connections that hold fences of this outbox, by the broker.
  [[nodiscard]] std::string fenceOwners() const {
    const std::string prefix =
        "pillion.fence." +
        database.query(
            "select system_identifier || '.' || (select oid from pg_database where"
            " datname = current_database()) from pg_control_system()");
    return Servers::mq().eval(
        "lists:usort([amqqueue:get_exclusive_owner(Q) || Q <- rabbit_amqqueue:list(),"
        " binary:match(element(4, amqqueue:get_name(Q)), <<\"" +
        prefix + "\">>) =/= nomatch])");
  }

  /// The lease is far shorter than the time after which the broker gives up a silent connection.
  [[nodiscard]] support::Process relay(const std::string& name, const std::string& failpoints = "",
                                       const std::string& leaseMs = "3000") const {
    return startRelayProcess(
        database, exchange, failpoints,
        {"--name", name, "--lease-ms", leaseMs, "--renew-ms", "500", "--heartbeat-s", "30"});
  }
};

bool isStopped(const support::Process& process) {
  const auto table = support::processTable();
  return std::ranges::any_of(
      table, [&](const auto& entry) { return entry.pid == process.pid() && entry.state == 'T'; });
}

enum class Ending { Resumed, Killed };

/// A relay is paused at the failpoint with messages sent and unconfirmed. Its successor has the
/// lanes in the database, but the broker lets it publish only when the paused one's connection is
/// gone: because it was resumed and found out, or because it was killed.
void relayPausedAt(const std::string& failpoint, Ending ending) {
  CAPTURE(failpoint);
  Setup setup;
  setup.write(10 * Setup::kKeys);
  auto zombie = setup.relay("zombie", failpoint);
  REQUIRE(eventually(20s, [&] { return isStopped(zombie); }));
  const std::string zombies = setup.fenceOwners();
  setup.readUntilQuiet();  // what it had sent
  const std::size_t sent = setup.arrivals.deliveries();
  REQUIRE(setup.arrivals.events() < setup.written());

  auto successor = setup.relay("successor", "", "60000");
  REQUIRE(setup.becomes({{"successor", 64}}, 20s));
  setup.write(5 * Setup::kKeys);
  setup.arrivals.readFor(3s);
  CHECK(setup.arrivals.deliveries() == sent);
  CHECK(setup.fenceOwners() == zombies);

  if (ending == Ending::Killed) {
    zombie.signal(SIGKILL);
  } else {
    // The successor is paused in its turn, within its lease, to see what the zombie alone does.
    successor.signal(SIGSTOP);
    REQUIRE(eventually(5s, [&] { return isStopped(successor); }));
    const std::string before = cursorRows(setup.database);
    zombie.signal(SIGCONT);
    CHECK(eventually(20s, [&] {
      return zombie.output().find("another relay has taken the lanes over") != std::string::npos;
    }));
    CHECK(eventually(10s, [&] { return setup.fenceOwners() != zombies; }));
    CHECK(cursorRows(setup.database) == before);
    successor.signal(SIGCONT);
  }
  CHECK(setup.allArrived());
  CHECK(setup.arrivals.outOfOrder() == 0);
  CHECK(eventually(10s, [&] { return drained(setup.database); }));
  if (ending == Ending::Resumed) CHECK(zombie.terminate(15s) == 0);
  CHECK(successor.terminate(15s) == 0);
}

}  // namespace

TEST_CASE("while a paused relay's connection lives, its successor publishes nothing of its lanes") {
  SUBCASE("paused with a window sent, then resumed") {
    relayPausedAt("relay.published=stop@5", Ending::Resumed);
  }
  SUBCASE("paused with a window sent, then killed") {
    relayPausedAt("relay.published=stop@5", Ending::Killed);
  }
  SUBCASE("paused inside a burst, whose rest it sends when it is resumed") {
    relayPausedAt("relay.publishing=stop@500", Ending::Resumed);
  }
  SUBCASE("paused inside a burst, then killed") {
    relayPausedAt("relay.publishing=stop@500", Ending::Killed);
  }
}

namespace {

/// Two relays' views of one outbox, without the relays.
struct TwoLogs {
  TestDatabase database;
  std::unique_ptr<EventPublisher> publisher =
      EventPublisher::create("orders", {.database = database.options()});
  outbox::PostgresEventLog first{options("first")};
  outbox::PostgresEventLog second{options("second")};

  [[nodiscard]] outbox::EventLogOptions options(const std::string& name) const {
    return {
        .database = database.options(), .relayName = name, .lease = 60s, .pageBytes = 1'000'000};
  }
  void write(int events) const {
    for (int n = 0; n < events; ++n) {
      publisher->publish(Event("order.changed", {{"n", n}}).setKey("key-" + std::to_string(n)));
    }
  }
  void endLeases() const {
    database.execute("update pillion.relay set expires_at = clock_timestamp() - interval '1 s'");
  }
  /// All lanes, however many balances that takes.
  static outbox::Cursor takeAll(outbox::PostgresEventLog& log) {
    outbox::Cursor taken;
    REQUIRE(eventually(10s, [&] {
      taken.add(log.balance().taken);
      return taken.lanes() == outbox::kAllLanes;
    }));
    return taken;
  }
};

std::vector<outbox::Park> parkAll(const outbox::Page& page, outbox::Reason reason) {
  std::vector<outbox::Park> parked;
  for (const Row& row : page.rows) parked.push_back({row.id, reason, 1, false});
  return parked;
}

}  // namespace

TEST_CASE("a checkpoint with a lease that ran out and lanes that were taken over writes nothing") {
  TwoLogs logs;
  logs.write(20);
  const outbox::Cursor mine = TwoLogs::takeAll(logs.first);
  const outbox::Page early = logs.first.fetch(mine, 100);
  REQUIRE(early.rows.size() == 20);

  logs.endLeases();
  const outbox::Cursor theirs = TwoLogs::takeAll(logs.second);
  const outbox::Page page = logs.second.fetch(theirs, 100);
  REQUIRE(page.rows.size() == 20);
  outbox::Checkpoint further{.cursor = page.after, .cursorMoved = true, .give = {}, .parked = {}};
  further.parked.park = {{page.rows[0].id, outbox::Reason::Refused, 1, false}};
  REQUIRE(taken(logs.second, further));
  logs.write(5);
  const outbox::Page late = logs.first.fetch(early.after, 100);
  REQUIRE(late.rows.size() == 5);

  const std::string before = cursorRows(logs.database);
  outbox::Checkpoint refused;
  SUBCASE("a renewal") {}
  SUBCASE("a cursor that is behind the new one") {
    refused.cursor = mine;
    refused.cursorMoved = true;
  }
  SUBCASE("a cursor that is further than the new one") {
    refused.cursor = late.after;
    refused.cursorMoved = true;
  }
  SUBCASE("lanes to be given away") {
    refused.give = late.after;
  }
  SUBCASE("events to be parked and others to be removed") {
    refused.cursor = late.after;
    refused.cursorMoved = true;
    refused.parked.park = parkAll(late, outbox::Reason::Unroutable);
    refused.parked.settled = {1};
  }
  SUBCASE("an event that was tried again") {
    refused.parked.retried = {{1, outbox::Reason::Unroutable, true}};
  }
  CHECK_FALSE(taken(logs.first, refused));
  logs.first.noteInHand(late.rows[0].id);
  CHECK(cursorRows(logs.database) == before);
  // Whoever has the lanes goes on undisturbed.
  outbox::Checkpoint next{.cursor = page.after, .cursorMoved = true, .give = {}, .parked = {}};
  CHECK(taken(logs.second, next));
  logs.first.release();
  CHECK(taken(logs.second, next));
}

TEST_CASE("a lease that ran out and that nobody took over is renewed by the next checkpoint") {
  TwoLogs logs;
  logs.write(5);
  const outbox::Cursor mine = TwoLogs::takeAll(logs.first);
  const outbox::Page page = logs.first.fetch(mine, 100);
  logs.endLeases();
  CHECK(taken(logs.first, {.cursor = page.after, .cursorMoved = true, .give = {}, .parked = {}}));
  CHECK(logs.second.balance().taken.lanes() == 0);
  CHECK(readOutboxStatus(logs.database.options()).pending == 0);
}

TEST_CASE("a relay whose lanes were taken over in part is fenced for the rest of them, too") {
  TwoLogs logs;
  logs.write(20);
  outbox::Cursor mine = TwoLogs::takeAll(logs.first);
  outbox::Page page = logs.first.fetch(mine, 100);
  REQUIRE(page.rows.size() == 20);
  // Two are there when the lease runs out, so that the first of them takes a half.
  outbox::PostgresEventLog third(logs.options("third"));
  REQUIRE(logs.second.balance().taken.lanes() == 0);
  REQUIRE(third.balance().taken.lanes() == 0);
  logs.database.execute(
      "update pillion.relay set expires_at = clock_timestamp() - interval '1 s' where name ="
      " 'first'");
  const outbox::Lanes lost = logs.second.balance().taken.lanes();
  REQUIRE(lost != 0);
  REQUIRE(lost != outbox::kAllLanes);

  const std::string before = cursorRows(logs.database) + rowsOf(logs.database, "relay");
  const outbox::Cursor kept = page.after.take(~lost);
  REQUIRE(kept.lanes() == ~lost);
  const auto refused = [&](const outbox::Checkpoint& checkpoint) {
    return !taken(logs.first, checkpoint);
  };
  CHECK(refused({.cursor = {}, .cursorMoved = false, .give = {}, .parked = {}}));
  CHECK(refused({.cursor = kept, .cursorMoved = true, .give = {}, .parked = {}}));
  CHECK(refused({.cursor = {}, .cursorMoved = false, .give = kept, .parked = {}}));
  CHECK(cursorRows(logs.database) + rowsOf(logs.database, "relay") == before);
}
