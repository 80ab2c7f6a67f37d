#define PILLION_TEST_MAIN
#include <algorithm>
#include <csignal>
#include <map>
#include <set>
#include <thread>

#include "fixture.hpp"

// What the relay promises when it, or the broker, ends at the worst moment.

using namespace pillion;
using namespace pillion::test;

namespace {

Event numbered(int n) {
  return Event("product.created", {{"n", n}}).setKey("key-" + std::to_string(n % 5));
}

/// A service whose effect shows a second application: it appends to a table without a unique key.
class JournalService {
 public:
  JournalService(const std::string& exchange, const std::string& pattern = "product.*") {
    database_.execute("create table journal (event_id uuid, key text, n int, at bigserial)");
    ConsumerOptions options;
    options.database = database_.options();
    options.broker = brokerOptions(exchange);
    consumer_ = EventConsumer::create(uniqueName("journal"), {pattern}, options);
    consumer_->onEvent("product.*", [](const Event& event, Transaction& tx) {
      tx.exec_params("insert into journal (event_id, key, n) values ($1, $2, $3)", event.id(),
                     event.key(), event.data().at("n").get<int>());
    });
    consumer_->start();
  }

  [[nodiscard]] long applied() const { return database_.count("select count(*) from journal"); }
  [[nodiscard]] long appliedTwice() const {
    return database_.count("select count(*) - count(distinct event_id) from journal");
  }
  [[nodiscard]] long outOfOrder() const {
    return database_.count(
        "select count(*) from (select n < lag(n) over (partition by key order by at) as back"
        " from journal) j where back");
  }
  [[nodiscard]] ConsumerStats stats() const { return consumer_->stats(); }

 private:
  TestDatabase database_;
  std::unique_ptr<EventConsumer> consumer_;
};

struct Setup : TestOutbox {
  void publish(int from, int to) const {
    auto connection = database.connect();
    for (int n = from; n < to; ++n) {
      pqxx::work tx{connection};
      publisher->publish(tx, numbered(n));
      tx.commit();
    }
  }
};

/// Kills a relay at the failpoint with events on their way; another one finishes the work.
void relayKilledAt(const std::string& failpoint, bool mustRepeat) {
  CAPTURE(failpoint);
  Setup setup;
  JournalService service(setup.exchange);
  constexpr int kEvents = 300;
  setup.publish(0, kEvents);
  auto doomed = startRelayProcess(setup.database, setup.exchange, failpoint);
  REQUIRE(doomed.waitFor(20s) == 128 + SIGKILL);
  setup.publish(kEvents, kEvents + 10);
  auto second = startRelayProcess(setup.database, setup.exchange);
  REQUIRE(eventually(30s, [&] { return service.applied() >= kEvents + 10; }));
  REQUIRE(eventually(10s, [&] { return drained(setup.database); }));
  REQUIRE(second.terminate(10s) == 0);
  // Whatever the second relay sent again has been delivered by now or waits in the queue.
  REQUIRE(eventually(10s, [&] {
    const auto stats = service.stats();
    return stats.applied + stats.duplicates == stats.delivered;
  }));
  CHECK(service.applied() == kEvents + 10);
  CHECK(service.appliedTwice() == 0);
  CHECK(service.outOfOrder() == 0);
  if (mustRepeat) CHECK(service.stats().duplicates > 0);
}

bool queueExistsFor(const std::string& queue) {
  return Servers::mq().queueExists(queue);
}

}  // namespace

TEST_CASE("a relay killed after it fetched and before it sent loses nothing") {
  relayKilledAt("relay.fetched=kill", false);
}

TEST_CASE("a relay killed in the middle of a window loses nothing") {
  relayKilledAt("relay.publishing=kill@100", false);
}

TEST_CASE("a relay killed between publish and confirm publishes again and the inbox absorbs it") {
  relayKilledAt("relay.published=kill@3", true);
}

TEST_CASE(
    "a relay killed between confirm and checkpoint publishes again and the inbox absorbs it") {
  relayKilledAt("relay.confirmed=kill@2", true);
}

TEST_CASE("a relay killed while it writes the checkpoint loses nothing") {
  relayKilledAt("relay.checkpointing=kill", true);
}

TEST_CASE("a relay killed right after the checkpoint loses nothing") {
  relayKilledAt("relay.checkpointed=kill", false);
}

TEST_CASE(
    "an unroutable event is not published, holds up no other, and goes out once it is bound") {
  Setup setup;
  TestQueue bound(setup.exchange, "product.*");
  const auto relay = Relay::create(relayOptions(setup.database, setup.exchange));
  relay->start();
  setup.publisher->publish(Event("nobody.listens", {{"n", 1}}).setKey("a"));
  setup.publisher->publish(Event("nobody.listens", {{"n", 2}}).setKey("a"));
  setup.publish(10, 13);
  CHECK(bound.read(3).size() == 3);
  REQUIRE(eventually(10s, [&] { return readOutboxStatus(setup.database.options()).parked == 2; }));
  // What is parked is written before the confirms of its page are all there.
  CHECK(eventually(10s, [&] { return readOutboxStatus(setup.database.options()).pending == 0; }));
  CHECK(relay->stats().published == 3);
  CHECK(relay->stats().unroutable > 0);

  setup.publisher->publish(Event("nobody.listens", {{"n", 3}}).setKey("a"));
  TestQueue late(setup.exchange, "nobody.*");
  const auto messages = late.read(3);
  REQUIRE(messages.size() == 3);
  for (int n = 1; n <= 3; ++n) {
    CHECK(nlohmann::json::parse(messages[static_cast<std::size_t>(n - 1)].body).at("n") == n);
  }
  REQUIRE(eventually(10s, [&] { return drained(setup.database); }));
  setup.publisher->publish(Event("nobody.listens", {{"n", 4}}).setKey("a"));
  CHECK(late.read(1).size() == 1);
  CHECK(late.readFor(200ms).empty());
  CHECK(eventually(10s, [&] { return relay->stats().published == 7; }));
}

TEST_CASE("parked events outlive the relay that parked them") {
  Setup setup;
  {
    TestQueue elsewhere(setup.exchange, "product.*");
    const auto relay = Relay::create(relayOptions(setup.database, setup.exchange));
    relay->start();
    setup.publisher->publish(Event("nobody.listens", {{"n", 1}}));
    REQUIRE(
        eventually(10s, [&] { return readOutboxStatus(setup.database.options()).parked == 1; }));
  }
  TestQueue late(setup.exchange, "nobody.*");
  const auto relay = Relay::create(relayOptions(setup.database, setup.exchange));
  relay->start();
  CHECK(late.read(1).size() == 1);
  REQUIRE(eventually(10s, [&] { return drained(setup.database); }));
}

TEST_CASE("SIGTERM finishes the window in flight: relays that come and go leave no duplicate") {
  Setup setup;
  TestQueue queue(setup.exchange);
  std::atomic<bool> stop{false};
  std::atomic<int> written{0};
  std::thread writer([&] {
    auto connection = setup.database.connect();
    while (!stop) {
      pqxx::work tx{connection};
      setup.publisher->publish(tx, numbered(written));
      tx.commit();
      ++written;
    }
  });
  for (int round = 0; round < 6; ++round) {
    auto relay = startRelayProcess(setup.database, setup.exchange);
    const int before = written;
    REQUIRE(eventually(20s, [&] { return written > before + 200; }));
    CHECK(relay.terminate(15s) == 0);
  }
  stop = true;
  writer.join();
  auto last = startRelayProcess(setup.database, setup.exchange);
  REQUIRE(eventually(20s, [&] { return drained(setup.database); }));
  CHECK(last.terminate(15s) == 0);
  auto messages = queue.read(static_cast<std::size_t>(written.load()));
  const auto more = queue.readFor(300ms);
  std::set<std::string> ids;
  for (const auto& message : messages) ids.insert(message.messageId);
  CHECK(ids.size() == static_cast<std::size_t>(written.load()));
  CHECK(more.empty());
}

TEST_CASE(
    "a paused relay is replaced after its lease, and when it wakes up its checkpoint is refused") {
  Setup setup;
  JournalService service(setup.exchange);
  auto options = relayOptions(setup.database, setup.exchange);
  options.lease = 3s;
  options.renewEvery = 500ms;
  options.broker.heartbeat = 2s;
  // The zombie stops itself with a window sent and unconfirmed.
  auto zombie = startRelayProcess(
      setup.database, setup.exchange, "relay.published=stop@2",
      {"--name", "zombie", "--lease-ms", "3000", "--renew-ms", "500", "--heartbeat-s", "2"});
  setup.publish(0, 200);
  const auto token = [&] { return readOutboxStatus(setup.database.options()).lanes.at(0).token; };
  REQUIRE(eventually(10s, [&] { return token() != 0; }));
  const auto zombieToken = token();
  const auto successor = Relay::create(options);
  successor->start();
  REQUIRE(eventually(30s, [&] { return token() > zombieToken; }));
  setup.publish(200, 400);
  REQUIRE(eventually(30s, [&] { return service.applied() == 400; }));
  zombie.signal(SIGCONT);
  setup.publish(400, 500);
  REQUIRE(eventually(30s, [&] { return service.applied() == 500; }));
  CHECK(token() > zombieToken);
  CHECK(readOutboxStatus(setup.database.options()).lanes.at(0).holder == "test relay");
  CHECK(service.appliedTwice() == 0);
  CHECK(service.outOfOrder() == 0);
  CHECK(zombie.terminate(15s) == 0);
}

TEST_CASE("events refused by a full queue are sent again and keep their order") {
  Setup setup;
  const std::string queue = uniqueName("full");
  amqp::Connection raw(brokerOptions(setup.exchange), "test");
  raw.declareTopicExchange(setup.exchange);
  raw.declareQueue({.name = queue,
                    .exclusive = false,
                    .textArguments = {{"x-queue-type", "quorum"}, {"x-overflow", "reject-publish"}},
                    .numberArguments = {{"x-max-length", 5}}});
  raw.bindQueue(queue, setup.exchange, "#");
  setup.publish(0, 60);
  const auto relay = Relay::create(relayOptions(setup.database, setup.exchange));
  relay->start();
  REQUIRE(eventually(10s, [&] { return relay->stats().nacked > 0; }));
  raw.consume(queue, 1);
  std::map<int, int> last;
  std::set<int> seen;
  while (seen.size() < 60) {
    auto incoming = raw.receive(10s);
    REQUIRE(incoming);
    const auto* delivery = std::get_if<amqp::Delivery>(&*incoming);
    if (delivery == nullptr) continue;
    const int n = nlohmann::json::parse(delivery->message.body).at("n").get<int>();
    raw.ack(*delivery);
    if (!seen.insert(n).second) continue;
    if (last.contains(n % 5)) CHECK(n > last[n % 5]);
    last[n % 5] = n;
  }
  REQUIRE(eventually(10s, [&] { return drained(setup.database); }));
}

TEST_CASE(
    "an event that the broker refuses among a thousand good ones is parked, the others go out") {
  Setup setup;
  TestQueue queue(setup.exchange);
  // 2 MB at most, as an operator might set it.
  const MessageLimit limit(2'000'000);
  setup.publish(0, 500);
  setup.publisher->publish(Event("product.created", {{"text", std::string(3'000'000, 'x')}}));
  setup.publish(500, 1'000);
  const auto relay = Relay::create(relayOptions(setup.database, setup.exchange));
  relay->start();
  std::set<std::string> ids;
  REQUIRE(eventually(60s, [&] {
    for (const auto& message : queue.readFor(200ms)) ids.insert(message.messageId);
    return ids.size() == 1'000;
  }));
  CHECK(eventually(10s, [&] {
    return setup.database.query("select string_agg(reason, ',') from pillion.parked") == "refused";
  }));
  REQUIRE(eventually(10s, [&] { return readOutboxStatus(setup.database.options()).pending == 0; }));
}

TEST_CASE("every byte value comes through a backlog, the live tail and the parked events") {
  // A name that must stay quoted, and looks like a parameter.
  const TestDatabase database("odd $1 \"schema\"");
  const std::string exchange = uniqueName("exchange");
  const auto publisher = EventPublisher::create("test", {.database = database.options()});
  std::string bytes = "\\x41";  // as bytea in text format begins
  for (int byte = 0; byte < 256; ++byte) bytes += static_cast<char>(byte);
  const auto publish = [&](const std::string& type) {
    publisher->publish(Event::ofBytes(type, bytes, "image/png").setKey("'k\\{schema}$1"));
  };
  TestQueue queue(exchange, "heard.*");
  for (int i = 0; i < 5; ++i) publish("heard.backlog");
  publish("unheard.parked");
  auto options = relayOptions(database, exchange);
  options.pageEvents = 2;
  const auto relay = Relay::create(options);
  relay->start();
  auto messages = queue.read(5);
  REQUIRE(eventually(10s, [&] { return readOutboxStatus(database.options()).parked == 1; }));
  TestQueue late(exchange, "unheard.*");
  publish("heard.live");
  for (auto& message : queue.read(1)) messages.push_back(std::move(message));
  for (auto& message : late.read(1)) messages.push_back(std::move(message));
  REQUIRE(messages.size() == 7);
  for (const auto& message : messages) {
    CAPTURE(message.type);
    CHECK(message.body == bytes);
    CHECK(std::ranges::find(message.headers, std::pair<std::string, std::string>{
                                                 "cloudEvents_partitionkey",
                                                 "'k\\{schema}$1"}) != message.headers.end());
  }
}

TEST_CASE("a header table that only SQL could write does not stop the relay") {
  Setup setup;
  TestQueue queue(setup.exchange);
  setup.database.execute(
      "insert into pillion.outbox (event_id, type, source, time, content_type, headers, payload)"
      " select gen_random_uuid(), 'a.b', 's', now(), 'application/json',"
      " (select json_object_agg('h' || g, '') from generate_series(1, 20000) g), '{}'");
  setup.publish(0, 3);
  const auto relay = Relay::create(relayOptions(setup.database, setup.exchange));
  relay->start();
  CHECK(queue.read(3).size() == 3);
  CHECK(eventually(10s, [&] {
    return setup.database.query("select string_agg(reason, ',') from pillion.parked") == "invalid";
  }));
}

TEST_CASE("a deleted exchange is declared again and nothing is lost") {
  Setup setup;
  JournalService before(setup.exchange);
  const auto relay = Relay::create(relayOptions(setup.database, setup.exchange));
  relay->start();
  setup.publish(0, 10);
  REQUIRE(eventually(10s, [&] { return before.applied() == 10; }));
  Servers::mq().deleteExchange(setup.exchange);
  setup.publish(10, 20);
  JournalService after(setup.exchange);
  REQUIRE(eventually(30s, [&] { return after.applied() == 10; }));
  REQUIRE(eventually(10s, [&] { return drained(setup.database); }));
}

TEST_CASE("the broker restarted under load loses nothing and repeats only what the inbox absorbs") {
  Setup setup;
  JournalService service(setup.exchange);
  const auto relay = Relay::create(relayOptions(setup.database, setup.exchange));
  relay->start();
  std::thread writer([&] { setup.publish(0, 3'000); });
  REQUIRE(eventually(20s, [&] { return service.applied() > 300; }));
  Servers::mq().restart();
  writer.join();
  REQUIRE(eventually(60s, [&] { return service.applied() == 3'000; }));
  REQUIRE(eventually(10s, [&] { return drained(setup.database); }));
  CHECK(service.appliedTwice() == 0);
  CHECK(service.outOfOrder() == 0);
}

TEST_CASE(
    "PostgreSQL killed under load loses no committed event and repeats only what is absorbed") {
  Setup setup;
  JournalService service(setup.exchange);
  const auto relay = Relay::create(relayOptions(setup.database, setup.exchange));
  relay->start();
  setup.publish(0, 500);
  Servers::pg().kill();
  Servers::pg().start();
  setup.publish(500, 700);
  REQUIRE(eventually(60s, [&] { return service.applied() == 700; }));
  REQUIRE(eventually(20s, [&] { return drained(setup.database); }));
  CHECK(service.appliedTwice() == 0);
  CHECK(service.outOfOrder() == 0);
}

TEST_CASE("an embedded relay that is woken publishes long before its next look would be due") {
  Setup setup;
  TestQueue queue(setup.exchange);
  auto options = relayOptions(setup.database, setup.exchange);
  options.pollFirst = 30s;
  options.pollMost = 30s;
  const auto relay = Relay::create(options);
  relay->start();
  const auto publisher = EventPublisher::create(
      "test-service",
      {.database = setup.database.options(), .onCommitted = [&] { relay->wake(); }});
  // The first look is at once; the second would come after half a minute.
  publisher->publish(numbered(1));
  CHECK(queue.read(1, 10s).size() == 1);
  publisher->publish(numbered(2));
  CHECK(queue.read(1, 10s).size() == 1);
}

TEST_CASE("starting and stopping twice does no harm, and stop without start returns") {
  Setup setup;
  const auto relay = Relay::create(relayOptions(setup.database, setup.exchange));
  relay->stop();
  relay->start();
  relay->start();
  relay->stop();
  relay->stop();
  relay->start();
  TestQueue queue(setup.exchange);
  setup.publish(0, 1);
  CHECK(queue.read(1).size() == 1);
  CHECK(queueExistsFor(queue.name()));
}

TEST_CASE("with notify a sleeping relay is woken by a commit, and the trigger must be there") {
  Setup setup;
  TestQueue queue(setup.exchange);
  auto options = relayOptions(setup.database, setup.exchange);
  options.notify = true;
  options.notifyPoll = 60s;
  const auto relay = Relay::create(options);
  CHECK_THROWS_WITH_AS(relay->start(), doctest::Contains("enable_notify()"), ConfigError);
  setup.database.execute("select pillion.enable_notify(true)");
  relay->start();
  const auto asleep = [&] {
    return setup.database.count("select last_value from pillion.idle_flag") == 1;
  };
  for (int round = 0; round < 20; ++round) {
    CHECK(eventually(10s, asleep));
    setup.publish(round * 3, round * 3 + 3);
    CHECK(queue.read(3, 5s).size() == 3);  // far sooner than its own next look
  }
  setup.database.execute("select pillion.disable_notify()");
}
