#define PILLION_TEST_MAIN
#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <set>
#include <thread>

#include "event/timestamp.hpp"
#include "fixture.hpp"
#include "outbox/activity_table.hpp"
#include "outbox/outbox_table.hpp"

// The ring: space comes back while everything goes on, and what it still holds can be replayed.

using namespace pillion;
using namespace pillion::test;

namespace {

struct Setup : RelayedOutbox {
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
  /// Writes these, the highest numbers so far, and waits until all are out and nothing is pending.
  void deliver(int from, int to) {
    publish(from, to);
    REQUIRE(arrive(to));
    REQUIRE(isDrained());
  }
  /// The numbers of the next events: they must be copies of what has arrived, and all there are.
  [[nodiscard]] std::vector<int> replayed(std::size_t count) {
    std::vector<int> numbers;
    for (const auto& message : queue.read(count)) {
      CHECK(ids.contains(message.messageId));
      numbers.push_back(nlohmann::json::parse(message.body).at("n"));
    }
    CHECK(queue.readFor(200ms).empty());
    CHECK(isDrained());
    return numbers;
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

namespace {

/// Writers that wait for nobody, each a transaction per event, and their longest transaction.
class Flood {
 public:
  explicit Flood(const Setup& setup) {
    for (int w = 0; w < 4; ++w) {
      writers_.emplace_back([this, &setup, w](const std::stop_token& stop) {
        auto connection = setup.database.connect();
        for (int n = 0; !stop.stop_requested(); ++n, ++written_) {
          const auto begin = std::chrono::steady_clock::now();
          pqxx::work tx{connection};
          setup.publisher->publish(tx, Event("n", {{"n", n}}).setKey("w" + std::to_string(w)));
          tx.commit();
          const auto took = std::chrono::steady_clock::now() - begin;
          const std::scoped_lock lock(mutex_);
          longest_ = std::max(longest_, took);
        }
      });
    }
  }
  void end() { writers_.clear(); }
  [[nodiscard]] int written() const { return written_; }
  [[nodiscard]] std::chrono::steady_clock::duration longest() {
    const std::scoped_lock lock(mutex_);
    return longest_;
  }

 private:
  std::atomic<int> written_{0};
  std::mutex mutex_;
  std::chrono::steady_clock::duration longest_{0};
  std::vector<std::jthread> writers_;  // the last: it ends first
};

}  // namespace

TEST_CASE("a relay empties a part of the ring by itself while writers flood the next one") {
  Setup setup;
  auto options = relayOptions(setup.database, setup.exchange);
  options.retention = 0s;
  setup.relay = Relay::create(options);
  setup.relay->start();
  const auto fileOf = [&](int child) {  // TRUNCATE gives a table a new one
    return setup.database.query("select pg_relation_filenode('pillion.outbox_" +
                                std::to_string(child) + "')");
  };
  const auto isEmpty = [&](int child) {
    return setup.database.query("select not exists (select from pillion.outbox_" +
                                std::to_string(child) + ")") == "t";
  };
  Flood flood(setup);
  for (int child = 0; child < 3; ++child) {
    CAPTURE(child);
    const std::string file = fileOf(child);
    setup.skipToEndOfChild(50);
    REQUIRE(eventually(10s, [&] { return !isEmpty(child + 1); }));
    CHECK(setup.arrive(flood.written()));  // and with it all of this child
    // A relay looks for space when it starts, then once a minute; so a new one, until it has come
    // when the cursor was past the child.
    CHECK(eventually(60s, [&] {
      setup.relay->stop();
      setup.relay = Relay::create(options);
      setup.relay->start();
      return eventually(2s, [&] {
        for (const auto& message : setup.queue.readFor(50ms)) setup.add(message);
        return isEmpty(child);
      });
    }));
    CHECK(fileOf(child) != file);
  }
  flood.end();
  CHECK(setup.arrive(flood.written()));
  CHECK(setup.ids.size() == static_cast<std::size_t>(flood.written()));
  CHECK(setup.outOfOrder == 0);
  CHECK(setup.isDrained());
  CHECK(flood.longest() < 5s);
  MESSAGE(flood.written() << " events, the longest transaction took "
                          << std::chrono::duration<double>(flood.longest()).count() << " s");
}

TEST_CASE("an open writer or a dump keeps space and not delivery; an old snapshot keeps neither") {
  Setup setup;
  setup.relay->start();
  setup.publish(0, 100);
  CHECK(setup.arrive(100));
  setup.skipToEndOfChild(0);
  setup.deliver(100, 110);
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
  setup.deliver(0, 10);
  CHECK(setup.truncate(0, "1 hour") == "current");
  setup.skipToEndOfChild(0);
  setup.deliver(10, 20);
  CHECK(setup.truncate(0, "1 hour") == "kept");
  CHECK(setup.truncateSoon(0, "0") == "truncated");
  // The child after the next one is about to be written: its age no longer counts.
  for (int child = 1; child < 7; ++child) setup.skipToEndOfChild(0);
  setup.deliver(20, 30);
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
      for (int i = 0; i < 30; ++i) {
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
  setup.deliver(10, 11);
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
  setup.deliver(0, 20);
  ReplayOptions options{.database = setup.database.options(), .batch = 3};
  options.dryRun = true;
  CHECK(replayEvents({.type = "*.even"}, options) == 10);
  CHECK(setup.queue.readFor(200ms).empty());
  options.dryRun = false;
  CHECK(replayEvents({.type = "n.odd", .key = "k3"}, options) == 2);
  CHECK(setup.replayed(2) == std::vector<int>{3, 13});
  CHECK(replayEvents({.firstId = 4, .lastId = 10}, options) == 7);
  CHECK(setup.replayed(7) == std::vector<int>{3, 4, 5, 6, 7, 8, 9});
  CHECK(replayEvents({.from = std::chrono::system_clock::now() + 1h}, options) == 0);
  CHECK(replayEvents({.type = "n"}, options) == 0);
  CHECK(replayEvents({.type = "#.odd", .lastId = 20}, options) == 10);
  CHECK(setup.replayed(10) == std::vector<int>{1, 3, 5, 7, 9, 11, 13, 15, 17, 19});
  options.asNew = true;
  CHECK(replayEvents({.type = "#", .lastId = 2}, options) == 2);
  for (const auto& message : setup.queue.read(2)) {
    CHECK_FALSE(setup.ids.contains(message.messageId));
  }
}

TEST_CASE("replay of a time between two events takes the first and not the last of its ends") {
  Setup setup;
  setup.relay->start();
  setup.deliver(0, 20);  // in one transaction, but each with its own time
  // As a text that an operator would copy from the table: to the microsecond.
  const auto timeOf = [&](int n) {
    return setup.database.query(
        "select to_char(created_at at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
        " from pillion.outbox where (convert_from(payload, 'UTF8')::json ->> 'n')::int = " +
        std::to_string(n));
  };
  REQUIRE(setup.database.count("select count(distinct created_at) from pillion.outbox") == 20);
  const std::string fromText = timeOf(5);
  const std::string toText = timeOf(12);
  const auto from = fromRfc3339(fromText);
  const auto to = fromRfc3339(toText);
  const ReplayOptions options{.database = setup.database.options()};

  // Copies are events like any other: pending until a relay has published and confirmed them.
  setup.relay->stop();
  const auto before = setup.relay->stats().published;
  CHECK(replayEvents({.from = from, .to = to}, options) == 7);
  CHECK(readOutboxStatus(setup.database.options()).pending == 7);
  CHECK(setup.queue.readFor(300ms).empty());
  setup.relay->start();
  CHECK(setup.replayed(7) == std::vector<int>{5, 6, 7, 8, 9, 10, 11});
  CHECK(eventually(10s, [&] { return setup.relay->stats().published == before + 7; }));

  // With a key, a type and ids as well; the copies are younger than `to`.
  CHECK(replayEvents({.from = from, .to = to, .type = "n.odd", .key = "k1"}, options) == 1);
  CHECK(setup.replayed(1) == std::vector<int>{11});
  CHECK(replayEvents({.from = from, .to = to, .firstId = 1, .lastId = 8}, options) == 3);
  CHECK(setup.replayed(3) == std::vector<int>{5, 6, 7});
  CHECK(replayEvents({.to = from}, options) == 5);
  CHECK(setup.replayed(5) == std::vector<int>{0, 1, 2, 3, 4});
  CHECK(replayEvents({.from = to, .lastId = 20}, options) == 8);
  CHECK(setup.replayed(8) == std::vector<int>{12, 13, 14, 15, 16, 17, 18, 19});
  const auto result = support::run({.command = {PILLION_PROGRAM, "replay", "--from", fromText,
                                                "--to", toText, "--last-id", "20"},
                                    .environment = environmentFor(setup.database, setup.exchange)});
  CHECK(result.status == 0);
  CHECK(result.output.find("7 events are published again") != std::string::npos);
  CHECK(setup.replayed(7) == std::vector<int>{5, 6, 7, 8, 9, 10, 11});
}

TEST_CASE("an event that is not published yet is not replayed, it comes anyway") {
  Setup setup;
  setup.publish(0, 10);
  CHECK(replayEvents({.type = "#"}, {.database = setup.database.options()}) == 0);
}

TEST_CASE("the command replay needs a choice, counts with --dry-run and speaks JSON") {
  Setup setup;
  setup.relay->start();
  setup.deliver(0, 10);
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

TEST_CASE("what is parked keeps no part of the ring, and comes out of it when its queue is there") {
  TestOutbox setup;
  TestQueue heard(setup.exchange, "heard");
  const auto relay = Relay::create(relayOptions(setup.database, setup.exchange));
  relay->start();
  const auto write = [&](const std::string& type, int n) {
    setup.publisher->publish(Event(type, {{"n", n}}).setKey("k"));
  };
  for (int n = 0; n < 20; ++n) write(n % 2 == 0 ? "lonely" : "heard", n);
  CHECK(heard.read(10).size() == 10);
  REQUIRE(eventually(10s, [&] { return readOutboxStatus(setup.database.options()).parked == 10; }));
  setup.database.execute("select setval('pillion.outbox_id_seq', 4194304)");
  write("heard", 20);
  CHECK(heard.read(1).size() == 1);
  CHECK(eventually(10s, [&] {
    return setup.database.query("select pillion.truncate_published(0)") == "truncated";
  }));
  TestQueue lonely(setup.exchange, "lonely");
  CHECK(lonely.read(10).size() == 10);
}

TEST_CASE("a lane that only a relay before had events of keeps no part of the ring from another") {
  TestOutbox setup;
  TestQueue queue(setup.exchange);
  setup.publisher->publish(Event("t", {{"n", 1}}).setKey("only"));
  {
    const auto relay = Relay::create(relayOptions(setup.database, setup.exchange));
    relay->start();
    CHECK(queue.read(1).size() == 1);
  }
  setup.database.execute("select setval('pillion.outbox_id_seq', 4194304)");
  // It sees no event at all, and nobody else writes.
  const auto relay = Relay::create(relayOptions(setup.database, setup.exchange));
  relay->start();
  CHECK(eventually(20s, [&] {
    return setup.database.query("select pillion.truncate_published(0)") != "unpublished";
  }));
  // Nor do ids that were given out and rolled back, in a transaction that began long before.
  auto writer = setup.database.connect();
  pqxx::work tx{writer};
  setup.publisher->publish(tx, Event("t", {{"n", 2}}).setKey("only"));
  setup.database.execute("select setval('pillion.outbox_id_seq', 2 * 4194304)");
  CHECK(setup.database.query("select pillion.truncate_published(1)") != "truncated");
  tx.abort();
  CHECK(eventually(20s, [&] {
    const auto result = setup.database.query("select pillion.truncate_published(1)");
    return result == "truncated" || result == "empty";
  }));
}
