// PostgreSQL does not answer, or a row is held for ever: the relay waits with a bound and says why.
#define PILLION_TEST_MAIN
#include <csignal>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "consumer_fixture.hpp"
#include "support/frozen.hpp"
#include "support/tcp_gate.hpp"

namespace pillion::test {
namespace {

using namespace std::chrono_literals;

/// What the manual says of stop(), and some for a busy machine.
constexpr auto kStopTakes = 15s;

std::vector<pid_t> relaySessions(const TestDatabase& database, const std::string& like) {
  auto connection = database.connect();
  pqxx::work tx{connection};
  std::vector<pid_t> pids;
  for (const auto& row :
       tx.exec("select pid from pg_stat_activity where datname = current_database() and"
               " application_name like '" +
               like + "'")) {
    pids.push_back(row[0].as<int>());
  }
  return pids;
}

void publishNumbered(const EventPublisher& publisher, int first, int count) {
  for (int i = first; i < first + count; ++i) {
    publisher.publish(Event("t.n", {{"n", i}}).setKey("k" + std::to_string(i % 5)));
  }
}

int numberOf(const amqp::Message& message) {
  return nlohmann::json::parse(message.body).at("n");
}

/// Reads until all of these events have come. The numbers of one key never go back, but for repeats
/// of what was there before.
void checkAllInOrder(TestQueue& queue, std::size_t events) {
  std::map<int, std::set<int>> seen;  // by key
  std::size_t distinct = 0;
  const bool all = eventually(30s, [&] {
    for (const auto& message : queue.read(events - distinct, 1s)) {
      const int n = numberOf(message);
      auto& numbers = seen[n % 5];
      if (numbers.contains(n)) continue;
      CHECK((numbers.empty() || *numbers.rbegin() < n));
      numbers.insert(n);
      ++distinct;
    }
    return distinct == events;
  });
  CHECK(all);
}

std::chrono::milliseconds timeOf(const std::function<void()>& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() -
                                                               begin);
}

RelayOptions shortLease(const RelayedOutbox& outbox) {
  auto options = relayOptions(outbox.database, outbox.exchange);
  options.lease = 3s;
  options.renewEvery = 500ms;
  return options;
}

/// Every commit that waits for a standby waits for one that is not there.
class StandbyGone {
 public:
  StandbyGone() { set("'gone'"); }
  ~StandbyGone() { set("''"); }
  StandbyGone(const StandbyGone&) = delete;
  StandbyGone& operator=(const StandbyGone&) = delete;

 private:
  static void set(const std::string& names) {
    pqxx::connection connection(Servers::pg().url());
    pqxx::nontransaction tx{connection};
    tx.exec("alter system set synchronous_standby_names = " + names);
    tx.exec("select pg_reload_conf()");
  }
};

}  // namespace

TEST_CASE("stop() returns in time when every session of the relay hangs, and nothing is lost") {
  RelayedOutbox outbox;
  auto options = shortLease(outbox);
  options.notify = true;
  outbox.database.execute("select pillion.enable_notify(true)");
  const auto relay = Relay::create(options);
  relay->start();
  publishNumbered(*outbox.publisher, 0, 50);
  CHECK(eventually(10s, [&] { return relay->stats().published == 50; }));
  const auto pids = relaySessions(outbox.database, "pillion relay%");
  REQUIRE(pids.size() == 3);
  {
    const support::Frozen frozen(pids);
    publishNumbered(*outbox.publisher, 50, 50);
    CHECK(timeOf([&] { relay->stop(); }) < kStopTakes);
  }
  outbox.relay->start();
  checkAllInOrder(outbox.queue, 100);
}

TEST_CASE("a relay whose session hangs goes on with another one, and says why it waited") {
  RelayedOutbox outbox;
  const LogCapture log;
  auto options = shortLease(outbox);
  options.database.answerTimeout = 2s;
  const auto relay = Relay::create(options);
  relay->start();
  publishNumbered(*outbox.publisher, 0, 50);
  CHECK(eventually(10s, [&] { return relay->stats().published == 50; }));
  const support::Frozen frozen(relaySessions(outbox.database, "pillion relay%"));
  publishNumbered(*outbox.publisher, 50, 50);
  checkAllInOrder(outbox.queue, 100);
  CHECK(eventually(10s, [&] { return log.count("relay 'test relay' goes on") == 1; }));
  CAPTURE(log.text());
  CHECK(log.count("relay 'test relay' waits: PostgreSQL, ") == 1);
  CHECK(log.count("no answer for 2000 ms") >= 1);
}

TEST_CASE("stop() returns in time when PostgreSQL takes connections and serves none") {
  RelayedOutbox outbox;
  outbox.relay->start();
  publishNumbered(*outbox.publisher, 0, 5);
  CHECK(outbox.queue.read(5).size() == 5);
  const auto sessions = relaySessions(outbox.database, "pillion relay%");
  const support::Frozen postmaster(Servers::pg().pid());
  for (const pid_t pid : sessions) ::kill(pid, SIGTERM);  // as pg_terminate_backend does
  publishNumbered(*outbox.publisher, 5, 1);               // on the connection that it has
  CHECK(timeOf([&] { outbox.relay->stop(); }) < kStopTakes);
}

TEST_CASE("a synchronous standby that is gone holds up no relay, at start, at work or at its end") {
  RelayedOutbox outbox;
  publishNumbered(*outbox.publisher, 0, 50);
  const StandbyGone gone;
  outbox.relay->start();
  checkAllInOrder(outbox.queue, 50);
  CHECK(eventually(10s, [&] { return drained(outbox.database); }));
  CHECK(timeOf([&] { outbox.relay->stop(); }) < 5s);
  CHECK(outbox.database.count("select count(*) from pillion.lane where token is not null") == 0);
}

TEST_CASE("a lock on the row of a relay that is gone is named with its session, and waited for") {
  RelayedOutbox outbox;
  const LogCapture log;
  auto former = startRelayProcess(outbox.database, outbox.exchange);
  publishNumbered(*outbox.publisher, 0, 5);
  CHECK(outbox.queue.read(5).size() == 5);
  auto zombie = outbox.database.connect();
  std::optional<pqxx::work> holding(std::in_place, zombie);
  holding->exec("select from pillion.relay for update");
  former.signal(SIGKILL);
  former.waitFor(10s);
  publishNumbered(*outbox.publisher, 5, 5);
  outbox.relay->start();
  const std::string pid = "session " + std::to_string(zombie.backendpid());
  CHECK(eventually(20s, [&] { return log.count(pid) == 1; }));
  CAPTURE(log.text());
  CHECK(log.count("64 lanes that nobody publishes cannot be taken") == 1);
  CHECK(outbox.queue.readFor(100ms).empty());
  holding.reset();
  CHECK(outbox.queue.read(5).size() == 5);
  CHECK(eventually(10s, [&] { return log.count("relay 'test relay' goes on") == 1; }));
}

TEST_CASE("a lock on one lane holds up that lane alone, and is named with its session") {
  RelayedOutbox outbox;
  const LogCapture log;
  auto zombie = outbox.database.connect();
  std::optional<pqxx::work> holding(std::in_place, zombie);
  const auto locked =
      holding->exec("select lane from pillion.lane where lane = 7 for update").size();
  REQUIRE(locked == 1);
  const long others = [&] {
    publishNumbered(*outbox.publisher, 0, 40);
    for (int i = 40; i < 200; ++i) {
      outbox.publisher->publish(Event("t.n", {{"n", i}}).setKey("key" + std::to_string(i)));
    }
    return outbox.database.count(
        "select count(*) from pillion.outbox o where pillion.lane_of(o.lane, o.key, o.id) <> 7");
  }();
  REQUIRE(others < 200);
  outbox.relay->start();
  const auto count = static_cast<std::size_t>(others);
  CHECK(outbox.queue.read(count).size() == count);
  const std::string pid = "session " + std::to_string(zombie.backendpid());
  CHECK(eventually(20s, [&] { return log.count(pid) == 1; }));
  CAPTURE(log.text());
  CHECK(log.count("1 lanes that nobody publishes cannot be taken") == 1);
  holding.reset();
  CHECK(outbox.queue.read(200 - count).size() == 200 - count);
}

TEST_CASE("a table lock on the lanes is given up for at its limit, with the session's name") {
  RelayedOutbox outbox;
  const LogCapture log;
  outbox.relay->start();
  publishNumbered(*outbox.publisher, 0, 5);
  CHECK(outbox.queue.read(5).size() == 5);
  auto zombie = outbox.database.connect();
  std::optional<pqxx::work> holding(std::in_place, zombie);
  holding->exec("lock table pillion.lane, pillion.relay in access exclusive mode");
  publishNumbered(*outbox.publisher, 5, 5);
  const std::string pid = "session " + std::to_string(zombie.backendpid());
  CHECK(eventually(30s, [&] { return log.count(pid) == 1; }));
  CAPTURE(log.text());
  CHECK(log.count("relay 'test relay' waits: ") == 1);
  holding.reset();
  CHECK(eventually(30s, [&] { return drained(outbox.database); }));
  CHECK(eventually(10s, [&] { return log.count("relay 'test relay' goes on") == 1; }));
}

namespace {

/// Each command ends by itself, with exit code 1 and this in its line.
void checkCommandsEnd(const std::string& url, const std::string& hint) {
  for (const std::string verb : {"status", "adopt", "rebase", "replay", "migrate"}) {
    CAPTURE(verb);
    std::vector<std::string> command{PILLION_PROGRAM, verb};
    if (verb == "replay") command.insert(command.end(), {"--all", "--dry-run"});
    support::Process process({.command = command,
                              .environment = {{"PILLION_DATABASE_URL", url}},
                              .output = Servers::instance().directory / uniqueName("command")});
    const auto took = timeOf([&] { CHECK(process.waitFor(60s) == 1); });
    MESSAGE(verb << " ended after " << took.count() << " ms: " << process.output());
    CHECK(process.output().find(hint) != std::string::npos);
    CHECK(took < 30s);
  }
}

}  // namespace

TEST_CASE("every command ends when a lock that it needs is not given up, and changes nothing") {
  const TestDatabase database;
  database.execute("select pillion.publish('t', '1', source => 's') from generate_series(1, 3)");
  auto zombie = database.connect();
  std::optional<pqxx::work> holding(std::in_place, zombie);
  holding->exec(
      "lock table pillion.outbox, pillion.lane, pillion.meta, pillion.relay, pillion.migration in"
      " access exclusive mode");
  checkCommandsEnd(database.url(), "lock");
  holding.reset();
  CHECK(readOutboxStatus(database.options()).pending == 3);
}

TEST_CASE("every command ends when PostgreSQL takes its connection and answers nothing") {
  const TestDatabase database;
  support::TcpGate gate(Servers::pg().port());
  gate.stall();
  const std::string url = Servers::pg().urlThrough(gate.port(), database.name());
  checkCommandsEnd(url, "away");
}

}  // namespace pillion::test
