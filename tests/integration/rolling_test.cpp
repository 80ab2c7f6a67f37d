// Instances of two versions of a service, side by side while one replaces the other.
#define PILLION_TEST_MAIN
#include <pillion/relay.hpp>

#include "consumer_fixture.hpp"

namespace pillion::test {
namespace {

using Types = std::vector<std::string>;

/// A version of the service: which types it handles, and at which of them it fails.
struct Version {
  Types types;
  std::string broken;
};

struct Rolling : World {
  std::unique_ptr<EventConsumer> start(const Version& version) const {
    auto options = consumerOptions();
    options.partitions = 2;
    options.retry = {.maxAttempts = 100'000, .first = 50ms, .factor = 1, .most = 50ms};
    auto consumer = EventConsumer::create("rolling", version.types, options);
    for (const std::string& type : version.types) {
      consumer->onEvent(type,
                        [fails = type == version.broken](const Event& event, Transaction& tx) {
                          if (fails) throw std::runtime_error("not in this version");
                          writeJournal(event, tx, event.type());
                        });
    }
    consumer->start();
    return consumer;
  }
};

}  // namespace

TEST_CASE(
    "while two versions replace each other under load nothing is lost, and keys are in order") {
  const Rolling world;
  const Version older{{"order.placed", "order.paid"}, "order.paid"};
  const Version newer{{"order.placed", "order.cancelled"}, "order.cancelled"};
  const Version mended{{"order.placed", "order.cancelled", "order.paid"}, ""};
  std::vector<std::unique_ptr<EventConsumer>> instances;
  for (int i = 0; i < 2; ++i) instances.push_back(world.start(older));
  world.start(newer)->stop();  // its new type has a queue from now on

  const auto relay = Relay::create(relayOptions(world.database, world.exchange));
  relay->start();
  auto publisher = EventPublisher::create("writer", {.database = world.database.options()});
  std::map<int, int> numbers;
  int sent = 0;
  const auto publish = [&](int count) {
    const Types types{"order.placed", "order.placed", "order.paid", "order.placed",
                      "order.cancelled"};
    for (int i = 0; i < count; ++i, ++sent) {
      const int key = sent % 11;
      publisher->publish(
          Event(types[static_cast<std::size_t>(sent) % types.size()], {{"number", ++numbers[key]}})
              .setKey("k" + std::to_string(key)));
    }
  };
  for (auto& instance : instances) {  // one by one
    publish(150);
    instance->stop();
    instance = world.start(newer);
    publish(150);
  }
  CHECK(eventually(30s, [&] { return world.parked() > 0; }));
  for (auto& instance : instances) {
    publish(100);
    instance->stop();
    instance = world.start(mended);
  }
  CHECK(eventually(120s, [&] { return world.journal() == sent && world.parked() == 0; }));
  CHECK(world.journalIds() == sent);
  CHECK(world.ordered());
  for (const auto& instance : instances) CHECK(instance->stats().deadLettered == 0);
}

TEST_CASE("an event of a type that only the next version knows waits for it, and is told of once") {
  const World world;
  const LogCapture log;
  const auto older = EventConsumer::create("told", {"order.#"}, world.consumerOptions());
  older->onEvent("order.placed", [](const Event& e, Transaction& tx) { writeJournal(e, tx); });
  older->start();
  const std::vector<Event> events{Event("order.new", {{"number", 1}}).setKey("a"),
                                  Event("order.placed", {{"number", 2}}).setKey("a"),
                                  Event("order.new", {{"number", 1}}).setKey("b"),
                                  Event("order.placed", {{"number", 1}}).setKey("c")};
  send(world.exchange, events);
  CHECK(eventually(20s, [&] { return world.journal() == 1 && world.parked() == 3; }));
  CHECK(eventually(5s, [&] {
    return log.count("events of type 'order.new' have no handler here") == 1 &&
           older->stats().parked == 2 && older->stats().held == 1;
  }));
  send(world.exchange, events);  // delivered again, it is what it was
  CHECK(eventually(20s, [&] { return older->stats().duplicates == 4; }));
  const auto newer = EventConsumer::create("told", {"order.#"}, world.consumerOptions());
  newer->onEvent("order.#", [](const Event& e, Transaction& tx) { writeJournal(e, tx); });
  newer->start();
  CHECK(eventually(60s, [&] { return world.journal() == 4 && world.parked() == 0; }));
  CHECK(world.ordered());
  CHECK(older->stats().deadLettered + newer->stats().deadLettered == 0);
}

TEST_CASE("an event of a sender that calls its type something else is told of by that name") {
  const World world;
  const LogCapture log;
  const auto consumer = journalConsumer(world, "foreign");
  const auto picky = EventConsumer::create("picky", {"order.#"}, world.consumerOptions());
  picky->onEvent("order.created", [](const Event& e, Transaction& tx) { writeJournal(e, tx); });
  picky->start();
  auto message = messageOf(Event("order.created", {{"number", 1}}));
  message.type = "Acme.Orders.OrderCreated, Acme\n[error] forged";
  send(world.exchange, std::span(&message, 1));
  CHECK(eventually(20s, [&] { return world.parked() == 1; }));
  CHECK(eventually(
      5s, [&] { return log.count("events of type 'Acme.Orders.OrderCreated, Acme") == 1; }));
  CHECK(log.count("\n[error] forged") == 0);
}

TEST_CASE("a handler that no topic pattern brings an event to is refused at the start") {
  const World world;
  for (const auto& [patterns, type] : std::vector<std::pair<Types, std::string>>{
           {{"account.*"}, "acount.credited"},
           {{"account.*", "order.#"}, "account.credited.twice"},
           {{"account.credited"}, "account"},
           {{"*.credited"}, "account.*.credited"}}) {
    const auto consumer = EventConsumer::create("unreachable", patterns, world.consumerOptions());
    consumer->onEvent(type, [](const Event&, Transaction&) {});
    try {
      consumer->start();
      FAIL("it started");
    } catch (const ConfigError& error) {
      const std::string text = error.what();
      CAPTURE(text);
      CHECK(text.find("'" + type + "'") != std::string::npos);
      CHECK(text.find("'" + patterns.front() + "'") != std::string::npos);
    }
  }
  const auto consumer = EventConsumer::create("reachable", {"*.credited"}, world.consumerOptions());
  consumer->onEvent("account.#", [](const Event&, Transaction&) {});
  consumer->start();
}

}  // namespace pillion::test
