#define PILLION_TEST_MAIN
#include <atomic>
#include <map>
#include <set>
#include <thread>

#include "fixture.hpp"
#include "outbox/activity_table.hpp"
#include "outbox/outbox_table.hpp"

// The ring: space comes back while everything goes on, and what it still holds can be replayed.

using namespace pillion;
using namespace pillion::test;

namespace {

struct Setup {
  TestDatabase database;
  std::string exchange = uniqueName("exchange");
  TestQueue queue{exchange};
  std::unique_ptr<EventPublisher> publisher =
      EventPublisher::create("test-service", {.database = database.options()});
  std::unique_ptr<Relay> relay = Relay::create(relayOptions(database, exchange));
  std::set<std::string> ids = {};
  std::map<std::string, int> last = {};
  int outOfOrder = 0;

  void publish(pqxx::connection& connection, int from, int to) const {
    pqxx::work tx{connection};
    for (int n = from; n < to; ++n) {
      publisher->publish(
          tx,
          Event(n % 2 == 0 ? "n.even" : "n.odd", {{"n", n}}).setKey("k" + std::to_string(n % 5)));
    }
    tx.commit();
  }
  void publish(int from, int to) const {
    auto connection = database.connect();
    publish(connection, from, to);
  }
  void add(const amqp::Message& message) {
    if (!ids.insert(message.messageId).second) return;
    const auto event = std::get<Event>(amqp::eventFrom(message));
    const int n = event.data().at("n");
    if (last.contains(event.key()) && n < last[event.key()]) ++outOfOrder;
    last[event.key()] = n;
  }
  [[nodiscard]] bool arrive(int count) {
    return eventually(60s, [&] {
      for (const auto& message : queue.readFor(50ms)) add(message);
      return ids.size() >= static_cast<std::size_t>(count);
    });
  }
  [[nodiscard]] std::string truncate(int child, const std::string& keep = "0") const {
    return database.query("select pillion.truncate_published(" + std::to_string(child) + ", '" +
                          keep + "')");
  }
  /// The same when nobody but the relay's short reads can be in the way.
  [[nodiscard]] std::string truncateSoon(int child, const std::string& keep = "0") const {
    std::string outcome;
    eventually(10s, [&] { return (outcome = truncate(child, keep)) != "busy"; });
    return outcome;
  }
  /// To so many ids before the end of the current child.
  void skipToEndOfChild(int left) const {
    database.execute(
        // Not near the end, where a writer may pass the value meanwhile and ids would go back.
        "select setval('pillion.outbox_id_seq', (((last_value >> 22) + 1) << 22) - " +
        std::to_string(left) +
        ") from pillion.outbox_id_seq where (last_value & 4194303) < 4000000");
  }
  [[nodiscard]] bool isDrained() const {
    return eventually(20s, [&] { return drained(database); });
  }
};

}  // namespace

TEST_CASE("parts of the ring are emptied while writers are at full rate, and nothing is lost") {
  Setup setup;
  setup.relay->start();
  std::atomic<bool> enough{false};
  std::atomic<int> written{0};
  std::atomic<int> read{0};
  std::vector<std::thread> writers;
  for (int w = 0; w < 2; ++w) {
    writers.emplace_back([&, w] {
      auto connection = setup.database.connect();
      for (int n = 0; !enough; ++n, ++written) {
        // As fast as this test can read.
        while (!enough && written - read > 1'000) std::this_thread::yield();
        pqxx::work tx{connection};
        setup.publisher->publish(tx, Event("n", {{"n", n}}).setKey("w" + std::to_string(w)));
        tx.commit();
      }
    });
  }
  int emptied = 0;
  for (int round = 0; round < 100 && emptied <= 10; ++round) {
    setup.skipToEndOfChild(50);
    CHECK(setup.arrive(written));
    read = static_cast<int>(setup.ids.size());
    for (int child = 0; child < 8; ++child) {
      if (setup.truncate(child) == "truncated") ++emptied;
    }
  }
  enough = true;
  for (auto& writer : writers) writer.join();
  CHECK(setup.arrive(written));
  CHECK(setup.ids.size() == static_cast<std::size_t>(written));
  CHECK(setup.outOfOrder == 0);
  CHECK(emptied > 10);  // twice round the ring, and more
}

TEST_CASE("an open writer or a dump keeps space and not delivery; an old snapshot keeps neither") {
  Setup setup;
  setup.relay->start();
  setup.publish(0, 100);
  CHECK(setup.arrive(100));
  setup.skipToEndOfChild(0);
  setup.publish(100, 110);
  CHECK(setup.arrive(110));
  REQUIRE(setup.isDrained());
  auto held = setup.database.connect();
  pqxx::transaction<pqxx::repeatable_read> snapshot{held};
  snapshot.exec("select pg_current_snapshot()");
  {
    auto dumping = setup.database.connect();
    pqxx::work dump{dumping};
    dump.exec("lock table pillion.outbox in access share mode");
    CHECK(setup.truncate(0) == "busy");
    setup.publish(110, 120);
    CHECK(setup.arrive(120));
  }
  {
    auto writing = setup.database.connect();
    pqxx::work writer{writing};
    setup.skipToEndOfChild(10);
    setup.publisher->publish(writer, Event("n.late", {{"n", 1'000}}).setKey("late"));
    setup.publish(120, 140);
    CHECK(setup.arrive(140));
    const auto holders = [&] {
      auto connection = setup.database.connect();
      pqxx::work tx{connection};
      return outbox::readSpaceHolders(tx, "pillion", 0s);
    }();
    REQUIRE_FALSE(holders.empty());
    CHECK(std::ranges::any_of(holders, [&](const SpaceHolder& holder) {
      return holder.pid == writing.backendpid() && holder.writes && holder.lockedChildren == 1;
    }));
    CHECK(setup.truncate(1) == "busy");
    writer.commit();
  }
  CHECK(setup.arrive(141));
  REQUIRE(setup.isDrained());
  CHECK(setup.truncateSoon(0) == "truncated");
  CHECK(setup.truncateSoon(1) == "truncated");
  CHECK(setup.truncate(1) == "empty");
}

TEST_CASE("what is younger than the retention is kept, unless the ring needs the space") {
  Setup setup;
  setup.relay->start();
  setup.publish(0, 10);
  REQUIRE(setup.arrive(10));
  REQUIRE(setup.isDrained());
  CHECK(setup.truncate(0, "1 hour") == "current");
  setup.skipToEndOfChild(0);
  setup.publish(10, 20);
  REQUIRE(setup.arrive(20));
  REQUIRE(setup.isDrained());
  CHECK(setup.truncate(0, "1 hour") == "kept");
  CHECK(setup.truncateSoon(0, "0") == "truncated");
  // The child after the next one is about to be written: its age no longer counts.
  for (int child = 1; child < 7; ++child) setup.skipToEndOfChild(0);
  setup.publish(20, 30);
  REQUIRE(setup.arrive(30));
  REQUIRE(setup.isDrained());
  CHECK(setup.truncateSoon(1, "1 hour") == "truncated");
}

TEST_CASE("the ring turns by age while writers write and several relays turn it, without a gap") {
  Setup setup;
  setup.relay->start();
  std::atomic<bool> enough{false};
  std::thread writer([&] {
    auto connection = setup.database.connect();
    for (int n = 0; !enough; n += 10) setup.publish(connection, n, n + 10);
  });
  std::atomic<int> turned{0};
  std::vector<std::thread> turners;
  for (int t = 0; t < 3; ++t) {
    turners.emplace_back([&] {
      auto connection = setup.database.connect();
      for (int i = 0; i < 100; ++i) {
        pqxx::work tx{connection};
        if (outbox::rotateRing(tx, "pillion", 0s)) ++turned;
        tx.commit();
      }
    });
  }
  for (auto& turner : turners) turner.join();
  enough = true;
  writer.join();
  const auto written = setup.database.count("select count(*) from pillion.outbox");
  CHECK(setup.arrive(static_cast<int>(written)));
  CHECK(setup.outOfOrder == 0);
  CHECK(turned > 3);
  CHECK(setup.database.count("select count(*) - count(distinct id) from pillion.outbox") == 0);
  CHECK(setup.isDrained());
}

TEST_CASE(
    "emptying works whatever isolation level is the default, and says which right is missing") {
  Setup setup;
  setup.relay->start();
  setup.publish(0, 10);
  REQUIRE(setup.arrive(10));
  setup.skipToEndOfChild(0);
  setup.publish(10, 11);
  REQUIRE(setup.arrive(11));
  REQUIRE(setup.isDrained());
  setup.relay->stop();  // its reads hold a part for a moment
  setup.database.execute("create role " + setup.exchange.substr(0, 8) +
                         "_weak login; grant usage on schema pillion to public;"
                         " grant select on all tables in schema pillion to public;"
                         " grant select on all sequences in schema pillion to public");
  setup.database.execute("alter database \"" + setup.database.name() +
                         "\" set default_transaction_isolation = 'serializable'");
  auto connection = setup.database.connect();
  {
    pqxx::nontransaction tx{connection};
    tx.exec("set role " + setup.exchange.substr(0, 8) + "_weak");
  }
  CHECK(outbox::truncatePublished(connection, "pillion", 0s).at("sqlstate 42501") == 1);
  {
    pqxx::nontransaction tx{connection};
    tx.exec("reset role");
  }
  CHECK(outbox::truncatePublished(connection, "pillion", 0s).at("truncated") == 1);
}

TEST_CASE("replay publishes what was asked for again, with the old ids, in the old order") {
  Setup setup;
  setup.relay->start();
  setup.publish(0, 20);
  REQUIRE(setup.arrive(20));
  REQUIRE(setup.isDrained());
  const auto first = setup.ids;
  ReplayOptions options{.database = setup.database.options(), .batch = 3};
  const auto numbers = [&](std::size_t count) {
    std::vector<int> list;
    for (const auto& message : setup.queue.read(count)) {
      CHECK(first.contains(message.messageId));
      list.push_back(nlohmann::json::parse(message.body).at("n"));
    }
    CHECK(setup.queue.readFor(200ms).empty());
    CHECK(setup.isDrained());
    return list;
  };
  options.dryRun = true;
  CHECK(replayEvents({.type = "*.even"}, options) == 10);
  CHECK(setup.queue.readFor(200ms).empty());
  options.dryRun = false;
  CHECK(replayEvents({.type = "n.odd", .key = "k3"}, options) == 2);
  CHECK(numbers(2) == std::vector<int>{3, 13});
  CHECK(replayEvents({.firstId = 4, .lastId = 10}, options) == 7);
  CHECK(numbers(7) == std::vector<int>{3, 4, 5, 6, 7, 8, 9});
  CHECK(replayEvents({.from = std::chrono::system_clock::now() + 1h}, options) == 0);
  CHECK(replayEvents({.type = "n"}, options) == 0);
  CHECK(replayEvents({.type = "#.odd", .lastId = 20}, options) == 10);
  CHECK(numbers(10) == std::vector<int>{1, 3, 5, 7, 9, 11, 13, 15, 17, 19});
  options.asNew = true;
  CHECK(replayEvents({.type = "#", .lastId = 2}, options) == 2);
  for (const auto& message : setup.queue.read(2)) CHECK_FALSE(first.contains(message.messageId));
}

TEST_CASE("an event that is not published yet is not replayed, it comes anyway") {
  Setup setup;
  setup.publish(0, 10);
  CHECK(replayEvents({.type = "#"}, {.database = setup.database.options()}) == 0);
}

TEST_CASE("the command replay needs a choice, counts with --dry-run and speaks JSON") {
  Setup setup;
  setup.relay->start();
  setup.publish(0, 10);
  REQUIRE(setup.arrive(10));
  REQUIRE(setup.isDrained());
  const auto run = [&](std::vector<std::string> arguments) {
    support::ProcessOptions options;
    options.command = {PILLION_PROGRAM, "replay"};
    options.command.insert(options.command.end(), arguments.begin(), arguments.end());
    options.environment = environmentFor(setup.database, setup.exchange);
    options.output = Servers::instance().directory / (uniqueName("replay") + ".log");
    support::Process process(options);
    const int status = process.wait();
    return std::pair(status, process.output());
  };
  CHECK(run({}).first == 2);
  CHECK(run({"--from", "yesterday"}).first == 2);
  const auto [status, output] = run({"--all", "--dry-run", "--json"});
  CHECK(status == 0);
  CHECK(output.find(R"({"as_new":false,"dry_run":true,"events":10})") != std::string::npos);
  CHECK(run({"--to", "2100-01-01T00:00:00Z"}).first == 0);
  CHECK(setup.queue.read(10).size() == 10);
}
