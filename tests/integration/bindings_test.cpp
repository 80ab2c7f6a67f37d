// A consumer whose exchange or bindings are taken away while it is connected.
#define PILLION_TEST_MAIN
#include <amqp/topology.hpp>

#include "consumer_fixture.hpp"

namespace pillion::test {
namespace {

struct Bound : World {
  explicit Bound(int partitions = 0) {
    auto options = consumerOptions();
    options.bindEvery = 200ms;
    options.partitions = partitions;
    consumer = EventConsumer::create(uniqueName("bound"), {"order.*", "product.#"}, options);
    consumer->onEvent("#", [](const Event& e, Transaction& tx) { writeJournal(e, tx); });
    consumer->start();
  }

  /// An event of this type arrives, however often it has to be sent until it has a queue.
  bool hears(const std::string& type) const {
    const long before = journal();
    return eventually(20s, [&] {
      try {
        send(exchange, Event(type, {{"number", 1}}));
      } catch (const std::exception&) {  // not routed, or no such exchange
        return false;
      }
      return eventually(2s, [&] { return journal() > before; });
    });
  }

  std::unique_ptr<EventConsumer> consumer;
};

}  // namespace

TEST_CASE("a consumer whose exchange is deleted is bound again, and says so") {
  const Bound world;
  const LogCapture log;
  const auto other = EventConsumer::create(uniqueName("other"), {"#"}, world.consumerOptions());
  other->onEvent("#", [](const Event&, Transaction&) {});
  REQUIRE(world.hears("order.placed"));
  Servers::mq().deleteExchange(world.exchange);
  other->start();  // it declares the exchange, and binds its own queue alone
  CHECK(world.hears("order.placed"));
  CHECK(world.hears("product.price.changed"));
  CHECK(log.count("waits: ") == 0);

  Servers::mq().deleteExchange(world.exchange);
  CHECK(
      eventually(10s, [&] { return log.count("exchange '" + world.exchange + "' was gone") > 0; }));
  CHECK(world.hears("order.placed"));
}

TEST_CASE("a binding that somebody deletes is made again") {
  const Bound world;
  REQUIRE(world.hears("order.placed"));
  for (int i = 0; i < 3; ++i) {
    Servers::mq().deleteBinding(world.exchange, "order.*", world.consumer->queue());
    CHECK(world.hears("order.placed"));
  }
  CHECK(world.consumer->stats().deadLettered == 0);
}

TEST_CASE("the exchanges behind a partitioned queue are made again") {
  const Bound world(2);
  REQUIRE(world.hears("order.placed"));
  const std::string queue = world.consumer->queue();
  for (const std::string behind : {".partitions", ".unkeyed"}) {
    CAPTURE(behind);
    Servers::mq().deleteExchange(queue + behind);
    CHECK(world.hears("order.placed"));
    CHECK(world.hears("product.created"));
  }
}

TEST_CASE("what the operator is to declare is looked for, and named when it is gone") {
  const World world;
  declareOnly(world, "watching");
  const LogCapture log;
  auto options = world.consumerOptions();
  options.bindEvery = 200ms;
  options.broker.declareTopology = false;
  const auto consumer = journalConsumer(options, "watching");
  consumer->start();
  Servers::mq().deleteExchange(world.exchange);
  CHECK(eventually(
      10s, [&] { return log.count("exchange '" + world.exchange + "' does not exist") == 1; }));
  CHECK(holdsFor(
      2s, [&] { return log.count("exchange '" + world.exchange + "' does not exist") == 1; }));
}

TEST_CASE(
    "a queue that does not answer is named while it is waited for, and taken up when it does") {
  const World world;
  declareOnly(world, "numb");
  std::optional<support::SuspendedQueue> hung(std::in_place, Servers::mq(), "numb.events");
  const LogCapture log;
  const auto consumer = journalConsumer(world, "numb");
  consumer->start();
  CHECK(eventually(40s, [&] { return log.count("queue 'numb.events' waits: ") == 1; }));
  hung.reset();
  send(world.exchange, numberedEvents(1));
  CHECK(eventually(60s, [&] { return world.journal() == 1; }));
  CHECK(eventually(20s, [&] { return log.count("queue 'numb.events' goes on") == 1; }));
}

TEST_CASE("an exchange that somebody has made anew as another kind is named, and costs nothing") {
  const World world;
  const LogCapture log;
  auto options = world.consumerOptions();
  options.bindEvery = 200ms;
  const auto consumer = journalConsumer(options, "other-kind");
  consumer->start();
  send(world.exchange, numberedEvents(1));
  REQUIRE(eventually(20s, [&] { return world.journal() == 1; }));
  // In one step, or the consumer would be the first to declare it.
  Servers::mq().eval(
      "E = rabbit_misc:r(<<\"/\">>, exchange, <<\"" + world.exchange +
      "\">>), rabbit_exchange:delete(E, false, <<\"test\">>),"
      " rabbit_exchange:declare(E, fanout, true, false, false, [], <<\"test\">>), ok");
  CHECK(eventually(10s, [&] { return log.count("could not look after its bindings") == 1; }));
  CHECK(log.count("waits: ") == 0);
  CHECK(consumer->stats().delivered == 1);
}

}  // namespace pillion::test
