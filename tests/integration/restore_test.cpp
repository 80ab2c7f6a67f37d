#define PILLION_TEST_MAIN
#include <algorithm>
#include <optional>
#include <set>

#include "consumer_fixture.hpp"
#include "fixture.hpp"
#include "support/tcp_gate.hpp"

// A database that is not where its cursor was made: the relay refuses, says the command, and after
// it nothing is missing.

using namespace pillion;
using namespace pillion::test;

namespace {

Event numbered(int n) {
  return Event("product.created", {{"n", n}}).setKey("k");
}

std::set<int> numbersIn(TestQueue& queue, std::size_t distinct) {
  std::set<int> numbers;
  eventually(20s, [&] {
    for (const auto& message : queue.readFor(100ms)) {
      numbers.insert(nlohmann::json::parse(message.body).at("n").get<int>());
    }
    return numbers.size() >= distinct;
  });
  return numbers;
}

std::set<int> range(int from, int to) {
  std::set<int> numbers;
  for (int n = from; n < to; ++n) numbers.insert(numbers.end(), n);
  return numbers;
}

/// A second cluster, whose transaction ids begin anew.
struct OtherCluster {
  support::TemporaryDirectory directory;
  support::PostgresServer server{directory / "postgres"};

  DatabaseOptions restore(const TestDatabase& database) {
    const auto dump = support::run(
        {.command = {"pg_dump", "--dbname", database.url()}, .output = directory / "dump.sql"});
    REQUIRE(dump.status == 0);
    server.createDatabase("restored");
    const auto load =
        support::run({.command = {"psql", "-q", "-v", "ON_ERROR_STOP=1", "--dbname",
                                  server.url("restored"), "-f", directory / "dump.sql"}});
    REQUIRE_MESSAGE(load.status == 0, load.output);
    return {.url = server.url("restored"), .schema = "pillion"};
  }
};

int runPillion(const DatabaseOptions& database, std::vector<std::string> arguments,
               std::string* output = nullptr) {
  arguments.insert(arguments.begin(), PILLION_PROGRAM);
  const auto result = support::run(
      {.command = arguments,
       .environment = {{"PILLION_DATABASE_URL", database.url}, {"PILLION_SCHEMA", "pillion"}}});
  if (output != nullptr) *output = result.output;
  return result.status;
}

}  // namespace

TEST_CASE(
    "a dump restored into another cluster: the relay refuses, rebase, and nothing is missing") {
  TestDatabase original;
  // Far more transactions than restoring a dump takes: the other cluster's ids stay behind.
  original.execute(
      "do $$ begin for i in 1..5000 loop perform pg_current_xact_id(); commit; end loop; end $$");
  const std::string exchange = uniqueName("exchange");
  TestQueue queue(exchange);
  const auto publisher = EventPublisher::create("s", {.database = original.options()});
  {
    const auto relay = Relay::create(relayOptions(original, exchange));
    relay->start();
    for (int n = 0; n < 10; ++n) publisher->publish(numbered(n));
    CHECK(numbersIn(queue, 10) == range(0, 10));
  }
  for (int n = 10; n < 20; ++n) publisher->publish(numbered(n));  // committed, unpublished

  OtherCluster other;
  const auto options = relayOptions(other.restore(original), exchange);
  // Written after the restore, with transaction ids far below the restored cursor.
  const auto later = EventPublisher::create("s", {.database = options.database});
  for (int n = 20; n < 30; ++n) later->publish(numbered(n));

  const auto relay = Relay::create(options);
  CHECK_THROWS_WITH_AS(relay->start(), doctest::Contains("pillion rebase"), SchemaError);
  std::string output;
  CHECK(runPillion(options.database, {"adopt"}, &output) == 2);
  CHECK(output.find("pillion rebase") != std::string::npos);
  CHECK(runPillion(options.database, {"rebase", "--dry-run"}, &output) == 0);
  CHECK(output.find("30 events") != std::string::npos);
  CHECK_THROWS_AS(relay->start(), SchemaError);

  REQUIRE(runPillion(options.database, {"rebase"}) == 0);
  relay->start();
  for (int n = 30; n < 40; ++n) later->publish(numbered(n));
  CHECK(numbersIn(queue, 40) == range(0, 40));
  relay->stop();
  CHECK(readOutboxStatus(options.database).pending == 0);
}

TEST_CASE("rebase leaves older events alone, and can be done again") {
  TestDatabase database;
  const std::string exchange = uniqueName("exchange");
  TestQueue queue(exchange);
  const auto publisher = EventPublisher::create("s", {.database = database.options()});
  publisher->publish(numbered(1));
  database.execute("update pillion.outbox set created_at = now() - interval '20 days'");
  publisher->publish(numbered(2));
  const Rebased first = rebaseCursor(database.options());
  CHECK(first.republished == 1);
  CHECK(first.kept == 1);
  CHECK(rebaseCursor(database.options()).republished == 1);
  const auto relay = Relay::create(relayOptions(database, exchange));
  relay->start();
  CHECK(numbersIn(queue, 1) == range(2, 3));
  CHECK(queue.readFor(300ms).empty());
}

TEST_CASE("a writer that began before the rebase and commits after it loses nothing") {
  TestDatabase database;
  const std::string exchange = uniqueName("exchange");
  TestQueue queue(exchange);
  const auto publisher = EventPublisher::create("s", {.database = database.options()});
  auto connection = database.connect();
  pqxx::work early{connection};
  early.exec("select pg_current_xact_id()");  // a lower id than the rebase will have
  rebaseCursor(database.options());
  publisher->publish(early, numbered(7));
  early.commit();
  const auto relay = Relay::create(relayOptions(database, exchange));
  relay->start();
  CHECK(numbersIn(queue, 1) == range(7, 8));
}

TEST_CASE("a cluster whose identifier changed and whose transaction ids were kept is adopted") {
  TestDatabase database;
  const std::string exchange = uniqueName("exchange");
  TestQueue queue(exchange);
  const auto publisher = EventPublisher::create("s", {.database = database.options()});
  publisher->publish(numbered(1));
  database.execute("update pillion.meta set system_identifier = 42");  // as after pg_upgrade
  const auto relay = Relay::create(relayOptions(database, exchange));
  CHECK_THROWS_WITH_AS(relay->start(), doctest::Contains("pillion adopt"), SchemaError);
  REQUIRE(runPillion(database.options(), {"adopt"}) == 0);
  relay->start();
  CHECK(numbersIn(queue, 1) == range(1, 2));
}

namespace {

/// Until all of these have come, whatever else, such as repeats, comes with them.
bool arrive(TestQueue& queue, const std::set<int>& wanted) {
  std::set<int> arrived;
  return eventually(30s, [&] {
    for (const auto& message : queue.readFor(100ms)) {
      arrived.insert(nlohmann::json::parse(message.body).at("n").get<int>());
    }
    return std::ranges::includes(arrived, wanted);
  });
}

/// A primary and a standby that follows it through a gate, behind one multi-host URL.
struct Pair {
  support::TemporaryDirectory directory;
  support::PostgresServer primary{directory / "primary"};
  support::TcpGate stream{primary.port()};
  std::optional<support::PostgresServer> standby;
  std::string exchange = uniqueName("exchange");
  TestQueue queue{exchange};

  Pair() {
    primary.createDatabase("service");
    Migrator({.url = primary.url("service")}).migrate();
    standby.emplace(
        directory / "standby",
        support::PostgresOptions{
            .durable = true, .settings = {}, .standbyOf = primary.urlThrough(stream.port())});
  }

  [[nodiscard]] DatabaseOptions database() const {
    std::string url = primary.url("service");
    const std::string one = "127.0.0.1:" + std::to_string(primary.port());
    url.replace(url.find(one), one.size(), one + ",127.0.0.1:" + std::to_string(standby->port()));
    return {.url = url + "?target_session_attrs=read-write"};
  }
  [[nodiscard]] bool standbyHasAll() const {
    const std::string end = primary.query("postgres", "select pg_current_wal_lsn()");
    return eventually(20s, [&] {
      return standby->query("postgres", "select pg_last_wal_replay_lsn() >= '" + end + "'") == "t";
    });
  }
  void promote() {
    primary.kill();
    CHECK(standby->query("postgres", "select pg_promote()") == "t");
  }
};

/// Each as soon as a server takes it, as a service would in a promotion.
void publishPatiently(const EventPublisher& publisher, int from, int to) {
  for (int n = from; n < to; ++n) {
    REQUIRE(eventually(20s, [&] {
      try {
        publisher.publish(numbered(n));
        return true;
      } catch (const DatabaseError&) {
        return false;
      }
    }));
  }
}

}  // namespace

TEST_CASE("a relay behind a multi-host URL follows a promotion and loses nothing") {
  Pair pair;
  const auto relay = Relay::create(relayOptions(pair.database(), pair.exchange));
  relay->start();
  const auto publisher = EventPublisher::create("s", {.database = pair.database()});
  for (int n = 0; n < 50; ++n) publisher->publish(numbered(n));
  CHECK(numbersIn(pair.queue, 50) == range(0, 50));
  REQUIRE(pair.standbyHasAll());
  pair.promote();
  publishPatiently(*publisher, 50, 100);
  CHECK(arrive(pair.queue, range(50, 100)));
  CHECK(eventually(10s, [&] { return readOutboxStatus(pair.database()).pending == 0; }));
}

TEST_CASE(
    "after a promotion that lost transactions, whose ids are used again, nothing is skipped") {
  Pair pair;
  const auto relay = Relay::create(relayOptions(pair.database(), pair.exchange));
  relay->start();
  const auto publisher = EventPublisher::create("s", {.database = pair.database()});
  for (int n = 0; n < 20; ++n) publisher->publish(numbered(n));
  CHECK(numbersIn(pair.queue, 20) == range(0, 20));
  REQUIRE(pair.standbyHasAll());
  // The standby hears no more; what is committed now goes out, and is lost with the primary.
  pair.stream.refuse();
  pair.stream.cut();
  for (int n = 20; n < 220; ++n) publisher->publish(numbered(n));
  CHECK(arrive(pair.queue, range(20, 220)));
  pair.promote();
  publishPatiently(*publisher, 220, 300);
  CHECK(arrive(pair.queue, range(220, 300)));
}

namespace {

/// A pair with everything published, whose standby has all of it.
struct QuietPair : Pair {
  std::unique_ptr<EventPublisher> publisher;

  QuietPair() {
    const auto relay = Relay::create(options(primary.url("service")));
    relay->start();
    publisher = EventPublisher::create("s", {.database = {.url = primary.url("service")}});
    for (int n = 0; n < 10; ++n) publisher->publish(numbered(n));
    CHECK(arrive(queue, range(0, 10)));
    relay->stop();
    for (int n = 10; n < 15; ++n) publisher->publish(numbered(n));  // committed, unpublished
    REQUIRE(standbyHasAll());
  }
  [[nodiscard]] RelayOptions options(const std::string& url) const {
    return relayOptions({.url = url}, exchange);
  }
  [[nodiscard]] DatabaseOptions promoted() const { return {.url = standby->url("service")}; }
};

}  // namespace

TEST_CASE(
    "a copy of the whole cluster publishes nothing beside the original, until it is adopted") {
  Pair pair;
  const auto original =
      Relay::create(relayOptions({.url = pair.primary.url("service")}, pair.exchange));
  original->start();
  const auto publisher =
      EventPublisher::create("s", {.database = {.url = pair.primary.url("service")}});
  for (int n = 0; n < 10; ++n) publisher->publish(numbered(n));
  CHECK(arrive(pair.queue, range(0, 10)));
  REQUIRE(pair.standbyHasAll());
  CHECK(pair.standby->query("postgres", "select pg_promote()") == "t");  // both live on
  const DatabaseOptions copied{.url = pair.standby->url("service")};
  EventPublisher::create("s", {.database = copied})->publish(numbered(100));
  {
    const LogCapture log;
    const auto copy = Relay::create(relayOptions(copied, pair.exchange));
    copy->start();
    CHECK(eventually(10s, [&] { return log.count("pillion adopt --new-identity") == 1; }));
    publisher->publish(numbered(10));
    CHECK(numbersIn(pair.queue, 1) == range(10, 11));  // the original goes on, the copy waits
    CHECK(pair.queue.readFor(500ms).empty());
  }
  CHECK(runPillion(copied, {"adopt", "--new-identity"}) == 0);
  const auto copy = Relay::create(relayOptions(copied, pair.exchange));
  copy->start();
  CHECK(arrive(pair.queue, range(100, 101)));
  publisher->publish(numbered(11));
  CHECK(arrive(pair.queue, range(11, 12)));
}

TEST_CASE("the original that finds a copy in its place says so, and goes on when that is adopted") {
  Pair pair;
  const DatabaseOptions original{.url = pair.primary.url("service")};
  const auto publisher = EventPublisher::create("s", {.database = original});
  publisher->publish(numbered(1));
  REQUIRE(pair.standbyHasAll());
  CHECK(pair.standby->query("postgres", "select pg_promote()") == "t");
  const DatabaseOptions copied{.url = pair.standby->url("service")};
  auto copy = Relay::create(relayOptions(copied, pair.exchange));
  copy->start();
  CHECK(arrive(pair.queue, range(1, 2)));
  publisher->publish(numbered(2));
  const LogCapture log;
  const auto relay = Relay::create(relayOptions(original, pair.exchange));
  relay->start();
  CHECK(eventually(10s, [&] { return log.count("pillion adopt --new-identity") == 1; }));
  CHECK(pair.queue.readFor(500ms).empty());
  copy->stop();
  CHECK(runPillion(copied, {"adopt", "--new-identity"}) == 0);
  copy = Relay::create(relayOptions(copied, pair.exchange));
  copy->start();
  CHECK(arrive(pair.queue, range(2, 3)));
  EventPublisher::create("s", {.database = copied})->publish(numbered(3));
  CHECK(arrive(pair.queue, range(3, 4)));
}

TEST_CASE("a relay on a standby waits and says why, and works from the promotion on") {
  QuietPair pair;
  const LogCapture log;
  const auto relay = Relay::create(pair.options(pair.standby->url("service")));
  relay->start();
  CHECK(eventually(10s, [&] { return log.count("PostgreSQL is a standby") == 1; }));
  CHECK(pair.queue.readFor(2s).empty());
  CHECK(log.count("PostgreSQL is a standby") == 1);  // and not with every attempt
  pair.promote();
  CHECK(arrive(pair.queue, range(10, 15)));
  EventPublisher::create("s", {.database = pair.promoted()})->publish(numbered(15));
  CHECK(arrive(pair.queue, range(15, 16)));
  CHECK(eventually(10s, [&] { return readOutboxStatus(pair.promoted()).pending == 0; }));
  CHECK(eventually(10s, [&] { return log.count(" goes on") == 1; }));
}

TEST_CASE("adopt has nothing to do on a promoted standby and does no harm") {
  QuietPair pair;
  CHECK(runPillion(pair.promoted(), {"adopt"}) == 1);  // still a standby: nothing can be written
  pair.promote();
  const auto cursor = [&] {
    return pair.standby->query("service",
                               "select string_agg(l::text, ' ' order by lane) || (select"
                               " system_identifier from pillion.meta) from"
                               " pillion.lane_position l");
  };
  const std::string before = cursor();
  std::string output;
  CHECK(runPillion(pair.promoted(), {"adopt"}, &output) == 0);
  CAPTURE(output);
  CHECK(cursor() == before);
  const auto relay = Relay::create(pair.options(pair.promoted().url));
  relay->start();
  CHECK(numbersIn(pair.queue, 5) == range(10, 15));
  CHECK(pair.queue.readFor(300ms).empty());
}

TEST_CASE("rebase on a promoted standby publishes again what is kept, once, and goes on") {
  QuietPair pair;
  pair.promote();
  std::string output;
  CHECK(runPillion(pair.promoted(), {"rebase"}, &output) == 0);
  CHECK(output.find("15 events are published again") != std::string::npos);
  const auto relay = Relay::create(pair.options(pair.promoted().url));
  relay->start();
  const auto messages = pair.queue.read(15);
  std::vector<int> numbers;
  for (const auto& message : messages) {
    numbers.push_back(nlohmann::json::parse(message.body).at("n").get<int>());
  }
  CHECK(std::ranges::is_sorted(numbers));  // one key
  CHECK(std::set<int>(numbers.begin(), numbers.end()) == range(0, 15));
  EventPublisher::create("s", {.database = pair.promoted()})->publish(numbered(15));
  CHECK(numbersIn(pair.queue, 1) == range(15, 16));
  CHECK(pair.queue.readFor(300ms).empty());
}

TEST_CASE("after a real pg_upgrade the relay refuses, adopt, and it goes on where it was") {
  support::TemporaryDirectory directory;
  std::optional<support::PostgresServer> old(std::in_place, directory / "old");
  old->createDatabase("service");
  // Ids far beyond those of a new cluster: only pg_upgrade brings them there.
  old->execute("service",
               "do $$ begin for i in 1..5000 loop perform pg_current_xact_id(); commit; end loop;"
               " end $$");
  Migrator({.url = old->url("service")}).migrate();
  const std::string exchange = uniqueName("exchange");
  TestQueue queue(exchange);
  auto options = relayOptions({.url = old->url("service")}, exchange);
  {
    const auto relay = Relay::create(options);
    relay->start();
    const auto publisher = EventPublisher::create("s", {.database = options.database});
    for (int n = 0; n < 10; ++n) publisher->publish(numbered(n));
    CHECK(numbersIn(queue, 10) == range(0, 10));
    relay->stop();
    for (int n = 10; n < 20; ++n) publisher->publish(numbered(n));  // committed, unpublished
  }
  const auto lanes = "select string_agg(l::text, ' ' order by lane) from pillion.lane_position l";
  const std::string identifier = "select system_identifier from pg_control_system()";
  const std::string before = old->query("service", lanes);
  const std::string oldIdentifier = old->query("service", identifier);
  old->stop();

  support::PostgresServer upgraded(directory / "new");
  upgraded.stop();
  upgraded.upgradeFrom(*old);
  old.reset();
  upgraded.start();
  options.database = {.url = upgraded.url("service")};
  CHECK(upgraded.query("service", identifier) != oldIdentifier);
  CHECK(upgraded.query("service", lanes) == before);
  CHECK(std::stol(upgraded.query("service", "select pg_current_xact_id()::text")) > 5'000);

  // Producers go on before anybody has thought of the relay.
  const auto publisher = EventPublisher::create("s", {.database = options.database});
  for (int n = 20; n < 30; ++n) publisher->publish(numbered(n));
  const auto relay = Relay::create(options);
  CHECK_THROWS_WITH_AS(relay->start(), doctest::Contains("pillion adopt"), SchemaError);
  REQUIRE(runPillion(options.database, {"adopt"}) == 0);
  relay->start();
  CHECK(numbersIn(queue, 20) == range(10, 30));  // and nothing of before again
  for (int n = 30; n < 40; ++n) publisher->publish(numbered(n));
  CHECK(numbersIn(queue, 10) == range(30, 40));
  CHECK(queue.readFor(300ms).empty());
  CHECK(eventually(10s, [&] { return readOutboxStatus(options.database).pending == 0; }));
}
