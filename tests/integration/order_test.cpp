#define PILLION_TEST_MAIN
#include <algorithm>
#include <atomic>
#include <csignal>
#include <functional>
#include <random>
#include <thread>

#include "versioned_flow.hpp"

// Per-key order under everything that ordinary writers do. The truth is the aggregate's version,
// which the writer's transaction counts up under the aggregate's row lock.

using namespace pillion;
using namespace pillion::test;

namespace {

constexpr int kWriters = 10;
constexpr int kKeys = 100;

struct Workload : TestOutbox {
  Workload() {
    database.execute(
        "create table aggregate (key text primary key, version int not null default 0);"
        "insert into aggregate (key) select 'key-' || g from generate_series(1, 100) g");
  }

  int change(pqxx::dbtransaction& tx, const std::string& key) const {
    const auto row = tx.exec_params1(
        "update aggregate set version = version + 1 where key = $1 returning version", key);
    const int version = row[0].as<int>();
    publisher->publish(tx, Event("order.changed", {{"version", version}}).setKey(key));
    return version;
  }

  /// One transaction with whatever ordinary services do to their ordering.
  void transaction(pqxx::connection& connection, std::mt19937& random) const {
    const auto chance = [&](unsigned percent) { return random() % 100 < percent; };
    const std::string key = "key-" + std::to_string(random() % kKeys + 1);
    pqxx::work tx{connection};
    // A transaction id taken long before the key's lock: the order of ids is not that of locks.
    if (chance(30)) {
      tx.exec("select pg_current_xact_id()");
      tx.exec("select pg_sleep(" + std::to_string(0.001 * (random() % 8)) + ")");
    }
    change(tx, key);
    if (chance(20)) {
      pqxx::subtransaction savepoint{tx, "maybe"};
      savepoint.exec("");  // libpqxx 6 begins it with the first exec
      change(savepoint, key);
      if (chance(50)) {
        savepoint.abort();
      } else {
        savepoint.commit();
      }
    }
    // Time between the insert and the commit: ids are not in the order of commits either.
    if (chance(20)) tx.exec("select pg_sleep(" + std::to_string(0.001 * (random() % 20)) + ")");
    if (chance(15)) {
      tx.abort();
    } else {
      tx.commit();
    }
  }

  /// All writers at once, each until `goOn(its transactions so far)` says no.
  void run(const std::function<bool(int)>& goOn) const {
    std::vector<std::thread> writers;
    for (int w = 0; w < kWriters; ++w) {
      writers.emplace_back([&, w] {
        std::mt19937 random(static_cast<unsigned>(4711 + w));
        auto connection = database.connect();
        for (int i = 0; goOn(i); ++i) transaction(connection, random);
      });
    }
    for (auto& writer : writers) writer.join();
  }

  [[nodiscard]] std::size_t committed() const {
    return static_cast<std::size_t>(database.count("select sum(version) from aggregate"));
  }
};

}  // namespace

TEST_CASE(
    "per-key order holds with ten writers on a hundred keys, rollbacks, savepoints, early ids") {
  Workload workload;
  TestQueue queue(workload.exchange);
  auto options = relayOptions(workload.database, workload.exchange);
  options.pageEvents = 20;  // live tail and paged backlog take turns
  const auto relay = Relay::create(options);
  relay->start();
  Arrivals arrivals(queue);
  workload.run([](int done) { return done < 400; });
  CHECK(arrivals.reach(workload.committed(), 60s));
  arrivals.readFor(300ms);
  CHECK(arrivals.events() == workload.committed());
  CHECK(arrivals.outOfOrder() == 0);
  CHECK(arrivals.repeated() == 0);
}

namespace {

/// The writers, for as long as this lives.
class Writing {
 public:
  explicit Writing(const Workload& workload)
      : thread_([this, &workload] { workload.run([this](int) { return !enough_; }); }) {}
  ~Writing() { end(); }
  Writing(const Writing&) = delete;
  Writing& operator=(const Writing&) = delete;
  void end() {
    enough_ = true;
    if (thread_.joinable()) thread_.join();
  }

 private:
  std::atomic<bool> enough_{false};
  std::thread thread_;
};

/// Waits until the cursor of the one relay was written with events behind it, and then until others
/// have arrived, which the cursor does not have yet.
bool isInMidFlow(const Workload& workload, Arrivals& arrivals) {
  const auto cursor = [&] {
    return workload.database.query(
        "select string_agg(done::text || coalesce(target::text || last_id, ''), ' ' order by lane)"
        " from pillion.lane_position");
  };
  const auto arrive = [&](std::size_t count) {
    return arrivals.reach(arrivals.events() + count, 20s);
  };
  if (!arrive(20)) return false;
  const std::string before = cursor();
  return eventually(20s, [&] { return cursor() != before; }) && arrive(20);
}

}  // namespace

TEST_CASE("per-key order and completeness hold while relays are killed again and again") {
  Workload workload;
  TestQueue queue(workload.exchange);
  Arrivals arrivals(queue);
  Writing writing(workload);
  for (int kill = 0; kill < 12; ++kill) {
    CAPTURE(kill);
    auto relay = startRelayProcess(workload.database, workload.exchange);
    REQUIRE(isInMidFlow(workload, arrivals));
    relay.signal(SIGKILL);
    CHECK(relay.waitFor(5s) == 128 + SIGKILL);
  }
  writing.end();
  auto last = startRelayProcess(workload.database, workload.exchange);
  CHECK(arrivals.reach(workload.committed(), 60s));
  CHECK(arrivals.events() == workload.committed());
  CHECK(arrivals.outOfOrder() == 0);
  CHECK(arrivals.repeated() > 0);  // otherwise no kill has bitten
  CHECK(eventually(10s, [&] { return drained(workload.database); }));
  CHECK(last.terminate(10s) == 0);
}

TEST_CASE("relays that end without progress cost a parked event each at most, and none is lost") {
  Workload workload;
  TestQueue queue(workload.exchange);
  workload.run([](int done) { return done < 50; });
  // Wherever: each of them ends long before its first checkpoint, or gets further and is no crash.
  const auto seed = std::random_device()();
  CAPTURE(seed);
  std::mt19937 random(seed);
  constexpr int kKills = 6;
  int killed = 0;
  for (int kill = 0; kill < kKills; ++kill) {
    auto relay = startRelayProcess(workload.database, workload.exchange,
                                   "relay.publishing=kill@" + std::to_string(1 + random() % 40));
    const bool ended = relay.waitFor(20s) == 128 + SIGKILL;
    killed += ended ? 1 : 0;
    if (!ended) break;  // nothing is left to send
  }
  auto last = startRelayProcess(workload.database, workload.exchange);
  CHECK(
      eventually(30s, [&] { return readOutboxStatus(workload.database.options()).pending == 0; }));
  // The first three are no reason to suspect an event.
  const auto parked = workload.database.count("select count(*) from pillion.parked");
  CAPTURE(killed);
  CHECK(parked <= std::max(0, killed - 3));
  CHECK(workload.database.count("select count(*) from pillion.parked where reason <> 'suspect'") ==
        0);
  Arrivals arrivals(queue);
  const std::size_t committed = workload.committed();
  CHECK(arrivals.reach(committed - static_cast<std::size_t>(parked), 20s));
  const auto missing = static_cast<long>(committed - arrivals.events());
  CHECK(arrivals.outOfOrder() <= missing);  // the next one of a key whose event is parked unsent
  CHECK(last.terminate(10s) == 0);
}
