#define PILLION_TEST_MAIN
#include <algorithm>
#include <csignal>
#include <numeric>
#include <set>

#include "fixture.hpp"
#include "outbox/caretaker.hpp"
#include "outbox/postgres_event_log.hpp"

// Events that cannot be published when it is their turn, and what that means for the others.

using namespace pillion;
using namespace pillion::test;

namespace {

struct Setup : TestOutbox {
  void publish(const std::string& type, int n, const std::string& key) const {
    publisher->publish(Event(type, {{"n", n}}).setKey(key));
  }
  [[nodiscard]] RelayOptions options() const {
    auto options = relayOptions(database, exchange);
    options.refusedFirst = 300ms;
    options.refusedMost = 1s;
    return options;
  }
  [[nodiscard]] std::unique_ptr<Relay> startRelay(
      ParkedPolicy policy = ParkedPolicy::Continue) const {
    auto changed = options();
    changed.parked = policy;
    auto relay = Relay::create(changed);
    relay->start();
    return relay;
  }
  [[nodiscard]] std::string parked() const {
    return database.query(
        "select coalesce(string_agg(reason || ':' || attempts, ' ' order by id), '') from"
        " pillion.parked");
  }
  [[nodiscard]] bool parkedBecomes(const std::string& expected) const {
    return eventually(15s, [&] { return parked() == expected; });
  }
  [[nodiscard]] bool nothingPending() const {
    return eventually(15s, [&] { return readOutboxStatus(database.options()).pending == 0; });
  }
};

std::vector<int> numbersOf(const std::vector<amqp::Message>& messages) {
  std::vector<int> numbers;
  for (const auto& message : messages) {
    numbers.push_back(nlohmann::json::parse(message.body).at("n").get<int>());
  }
  return numbers;
}

}  // namespace

TEST_CASE("with hold, a key waits behind its unroutable event and follows in order; others go on") {
  Setup setup;
  TestQueue heard(setup.exchange, "heard");
  const auto relay = setup.startRelay(ParkedPolicy::Hold);
  setup.publish("lonely", 1, "a");
  for (int n = 2; n <= 6; ++n) setup.publish(n == 4 ? "lonely" : "heard", n, "a");
  setup.publish("heard", 10, "b");
  CHECK(numbersOf(heard.read(1)) == std::vector<int>{10});
  CHECK(setup.nothingPending());
  // The key's first was tried, those behind it were not.
  CHECK(setup.parked().starts_with("unroutable:"));
  CHECK(setup.parked().ends_with("held:0 held:0 held:0 held:0 held:0"));
  TestQueue lonely(setup.exchange, "lonely");
  CHECK(numbersOf(lonely.read(2)) == std::vector<int>{1, 4});
  CHECK(numbersOf(heard.read(4)) == std::vector<int>{2, 3, 5, 6});
  CHECK(setup.parkedBecomes(""));
  setup.publish("heard", 7, "a");
  CHECK(numbersOf(heard.read(1)) == std::vector<int>{7});
}

TEST_CASE("a type can hold its key while others do not, also from the command line") {
  Setup setup;
  TestQueue heard(setup.exchange, "heard");
  auto relay = startRelayProcess(setup.database, setup.exchange, "", {"--hold", "order.#"});
  setup.publish("order.lonely", 1, "a");
  setup.publish("stock.lonely", 2, "b");
  setup.publish("heard", 3, "a");
  setup.publish("heard", 4, "b");
  CHECK(numbersOf(heard.read(1)) == std::vector<int>{4});
  CHECK(setup.nothingPending());
  CHECK(setup.database.query("select string_agg(reason, ' ' order by id) from pillion.parked") ==
        "unroutable unroutable held");
  // An operator gives it up; what waited for it goes on.
  setup.database.execute("delete from pillion.parked where type = 'order.lonely'");
  CHECK(numbersOf(heard.read(1)) == std::vector<int>{3});
  CHECK(relay.terminate(10s) == 0);
}

TEST_CASE("held events outlive their relay, and are let go by one that does not hold") {
  Setup setup;
  TestQueue heard(setup.exchange, "heard");
  {
    const auto relay = setup.startRelay(ParkedPolicy::Hold);
    setup.publish("lonely", 1, "a");
    for (int n = 2; n <= 4; ++n) setup.publish("heard", n, "a");
    CHECK(setup.nothingPending());
  }
  {
    const auto relay = setup.startRelay(ParkedPolicy::Hold);
    setup.publish("heard", 5, "a");
    CHECK(setup.nothingPending());
    CHECK(eventually(5s, [&] { return setup.parked().ends_with("held:0 held:0 held:0 held:0"); }));
  }
  const auto relay = setup.startRelay(ParkedPolicy::Continue);
  CHECK(numbersOf(heard.read(4)) == std::vector<int>{2, 3, 4, 5});
}

TEST_CASE("a refused event is tried again and published when the broker takes it") {
  Setup setup;
  TestQueue queue(setup.exchange);
  MessageLimit limit(1'000'000);
  const auto relay = setup.startRelay();
  setup.publisher->publish(Event("big", {{"n", 1}, {"text", std::string(1'500'000, 'x')}}));
  setup.publish("small", 2, "");
  CHECK(numbersOf(queue.read(1)) == std::vector<int>{2});
  CHECK(eventually(15s, [&] {
    return setup.database.count(
               "select coalesce(max(attempts), 0) from pillion.parked where reason ="
               " 'refused'") >= 2;
  }));
  MessageLimit::set(10'000'000);
  CHECK(numbersOf(queue.read(1)) == std::vector<int>{1});
  CHECK(setup.parkedBecomes(""));
}

TEST_CASE("with drop, an event without a queue is counted and forgotten") {
  Setup setup;
  TestQueue heard(setup.exchange, "heard");
  auto options = setup.options();
  options.unroutable = UnroutablePolicy::Drop;
  const auto relay = Relay::create(options);
  relay->start();
  for (int n = 1; n <= 10; ++n) setup.publish(n % 2 == 0 ? "heard" : "lonely", n, "");
  CHECK(heard.read(5).size() == 5);
  CHECK(setup.nothingPending());
  CHECK(setup.parked().empty());
  CHECK(relay->stats().dropped == 5);
}

TEST_CASE("an event over which relays end is parked as suspect, and the others go out") {
  Setup setup;
  TestQueue queue(setup.exchange);
  for (int n = 1; n <= 20; ++n) setup.publish("product.created", n, "k");
  // Each of them ends when it has put its first message on the wire.
  for (int relay = 1; relay <= 6; ++relay) {
    CAPTURE(relay);
    auto doomed = startRelayProcess(setup.database, setup.exchange, "relay.publishing=kill@1");
    CHECK(doomed.waitFor(20s) == 128 + SIGKILL);
  }
  auto next = startRelayProcess(setup.database, setup.exchange);
  CHECK(setup.parkedBecomes("suspect:6"));
  std::set<int> arrived;
  CHECK(eventually(20s, [&] {
    for (const int n : numbersOf(queue.readFor(100ms))) arrived.insert(n);
    return arrived.size() == 20;  // the suspect, too: each of the six had sent it
  }));
  CHECK(setup.nothingPending());
  CHECK(next.terminate(10s) == 0);
}

TEST_CASE("relays that were killed where nothing was wrong park nothing") {
  Setup setup;
  TestQueue queue(setup.exchange);
  for (int round = 0; round < 6; ++round) {
    for (int n = 0; n < 50; ++n) setup.publish("product.created", n, "k");
    auto relay = startRelayProcess(setup.database, setup.exchange);
    CHECK(eventually(20s, [&] {
      return setup.database.count("select count(*) from pillion.lane where token is not null") ==
             64;
    }));
    relay.signal(SIGKILL);
    relay.waitFor(5s);
  }
  auto last = startRelayProcess(setup.database, setup.exchange);
  CHECK(setup.nothingPending());
  CHECK(setup.parked().empty());
  CHECK(last.terminate(10s) == 0);
}

namespace {

/// Pairs that have nothing of their own but source and type: CloudEvents makes an event known by
/// its id and source together.
void publishTwins(const Setup& setup, const std::string& one, const std::string& other, int pairs) {
  std::vector<Event> events;
  for (int n = 0; n < pairs; ++n) {
    const Event first = Event(one, {{"n", n}}).setSource("one");
    events.push_back(first);
    events.push_back(Event(other, {{"n", n}}).setId(first.id()).setSource("other"));
  }
  auto connection = setup.database.connect();
  pqxx::work tx{connection};
  setup.publisher->publish(tx, events);
  tx.commit();
}

/// Each number once, in order, all from there.
void checkAllOf(const std::vector<amqp::Message>& messages, const std::string& source, int count) {
  std::vector<int> expected(static_cast<std::size_t>(count));
  std::iota(expected.begin(), expected.end(), 0);
  auto numbers = numbersOf(messages);
  std::ranges::sort(numbers);
  CHECK(numbers == expected);
  for (const auto& message : messages) CHECK(message.appId == source);
}

std::string parkedTypes(const Setup& setup) {
  return setup.database.query(
      "select coalesce(string_agg(x, ' ' order by x), '') from (select type || ' ' || reason || ' '"
      " || count(*) as x from pillion.parked group by type, reason) t");
}

}  // namespace

TEST_CASE("of two events of one id in flight the unroutable one alone is parked, and comes later") {
  const Setup setup;
  TestQueue heard(setup.exchange, "heard");
  publishTwins(setup, "heard", "lonely", 300);
  const auto relay = setup.startRelay();
  checkAllOf(heard.read(300), "one", 300);
  CHECK(eventually(15s, [&] { return parkedTypes(setup) == "lonely unroutable 300"; }));
  TestQueue late(setup.exchange, "lonely");
  checkAllOf(late.read(300), "other", 300);
  CHECK(setup.parkedBecomes(""));
  CHECK(heard.readFor(200ms).empty());
}

TEST_CASE("on the second road, too, a return is of its own event and not of another with its id") {
  const Setup setup;
  const auto relay = setup.startRelay();
  publishTwins(setup, "left", "right", 300);
  REQUIRE(eventually(
      15s, [&] { return parkedTypes(setup) == "left unroutable 300 right unroutable 300"; }));
  TestQueue left(setup.exchange, "left");
  checkAllOf(left.read(300), "one", 300);
  CHECK(eventually(15s, [&] { return parkedTypes(setup) == "right unroutable 300"; }));
  CHECK(left.readFor(200ms).empty());
  TestQueue right(setup.exchange, "right");
  checkAllOf(right.read(300), "other", 300);
  CHECK(setup.parkedBecomes(""));
}

TEST_CASE("a refusal by a full queue is of its own event and not of another with its id") {
  const Setup setup;
  TestQueue heard(setup.exchange, "heard");
  amqp::Connection operatorsOwn(brokerOptions(setup.exchange), "test");
  const std::string full = uniqueName("full");
  operatorsOwn.declareQueue(
      {.name = full,
       .exclusive = false,
       .textArguments = {{"x-queue-type", "quorum"}, {"x-overflow", "reject-publish"}},
       .numberArguments = {{"x-max-length", 1}}});
  operatorsOwn.bindQueue(full, setup.exchange, "full");
  publishTwins(setup, "heard", "full", 300);
  const auto relay = setup.startRelay();
  checkAllOf(heard.read(300), "one", 300);
  CHECK(setup.nothingPending());
  // A quorum queue takes some more than its length before it says so.
  CHECK(eventually(15s, [&] {
    const long refused = 300 - Servers::mq().queueDepth(full);
    return refused > 0 && parkedTypes(setup) == "full nacked " + std::to_string(refused);
  }));
  CHECK(parkedTypes(setup).find("heard") == std::string::npos);
  CHECK(heard.readFor(200ms).empty());
}

TEST_CASE("an event that is published again while it is parked is one of two, each with its fate") {
  const Setup setup;
  const auto relay = setup.startRelay();
  const Event event = Event("lonely", {{"n", 1}}).setKey("k");
  setup.publisher->publish(event);
  REQUIRE(setup.parkedBecomes("unroutable:1"));
  setup.publisher->publish(event);  // the caller's own repetition: everything is equal
  setup.publisher->publish(Event("heard", {{"n", 2}}).setId(event.id()));
  CHECK(setup.nothingPending());
  CHECK(setup.database.count("select count(distinct id) from pillion.parked") == 3);
  TestQueue late(setup.exchange, "lonely");
  CHECK(numbersOf(late.read(2)) == std::vector<int>{1, 1});
  CHECK(eventually(15s, [&] { return parkedTypes(setup) == "heard unroutable 1"; }));
  CHECK(late.readFor(200ms).empty());
}

TEST_CASE("parked events are read from the server alone whose log is being published") {
  Setup setup;
  {
    const auto relay = setup.startRelay();
    setup.publish("lonely", 1, "k");
    REQUIRE(setup.parkedBecomes("unroutable:1"));
  }
  outbox::Caretaker caretaker({.database = setup.database.options(),
                               .who = "test",
                               .pageEvents = 10,
                               .pageBytes = 1U << 20,
                               .retention = 1h,
                               .reconnectFirst = 10ms,
                               .reconnectMost = 100ms});
  const auto asked = [&] {
    outbox::ParkedQuestion question;
    question.lanes = outbox::kAllLanes;
    caretaker.ask(question);
    std::optional<outbox::ParkedAnswer> answer;
    eventually(1s, [&] { return (answer = caretaker.answer()).has_value(); });
    return answer;
  };
  CHECK_FALSE(asked());
  caretaker.answerFrom("a primary of before");
  CHECK_FALSE(asked());
  const outbox::PostgresEventLog log({.database = setup.database.options(), .pageBytes = 1U << 20});
  caretaker.answerFrom(log.server());
  const auto answer = asked();
  REQUIRE(answer);
  CHECK(answer->rows.size() == 1);
}
