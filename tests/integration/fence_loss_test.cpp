// Fence queues among the broker's other queues: what operators and their policies do to all queues
// must not take a relay's fences from it, or it is noticed.
#define PILLION_TEST_MAIN
#include <relay/fences.hpp>

#include "support/rabbit_server.hpp"
#include "support/tcp_gate.hpp"
#include "versioned_flow.hpp"

namespace pillion::test {
namespace {

using outbox::kAllLanes;
using relay::Fences;

/// A connection with all fences of an outbox that nobody else has.
struct Holder {
  explicit Holder(std::string outbox = uniqueName("pillion.fence.test"))
      : prefix(std::move(outbox)) {}

  /// Lets the connection read what the broker says.
  void listen() { connection.receive(10ms); }
  [[nodiscard]] std::string fence(int lane) const { return prefix + '.' + std::to_string(lane); }
  [[nodiscard]] bool isThere(int lane) const { return Servers::mq().queueExists(fence(lane)); }
  [[nodiscard]] bool keepsFirstAndLast() {
    return holdsFor(2s, [&] {
      listen();
      return isThere(0) && isThere(63);
    });
  }

  std::string prefix;
  amqp::Connection connection{brokerOptions("unused"), "test"};
  Fences fences{connection, prefix};
};

outbox::Lanes lanes(std::initializer_list<int> numbers) {
  outbox::Lanes all = 0;
  for (const int lane : numbers) all |= outbox::laneBit(lane);
  return all;
}

}  // namespace

TEST_CASE("all 64 fences are held by one relay, and nobody else gets them") {
  Holder holder;
  const auto begin = std::chrono::steady_clock::now();
  CHECK(holder.fences.hold(kAllLanes) == kAllLanes);
  const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - begin;
  MESSAGE("64 fences took " << took.count() << " ms");
  Holder other(holder.prefix);
  CHECK(other.fences.hold(kAllLanes) == 0);
  CHECK(holder.fences.takeLost() == 0);
}

TEST_CASE("a relay does not wait for its own old connection, and a successor waits for both") {
  auto old = std::make_unique<Holder>();
  REQUIRE(old->fences.hold(kAllLanes) == kAllLanes);
  auto again = std::make_unique<Holder>(old->prefix);
  Holder successor(old->prefix);
  CHECK(again->fences.holdAgain(lanes({0, 63})) == lanes({0, 63}));
  CHECK(again->fences.anySecond());
  again->fences.leaveSecond();
  CHECK(again->fences.anySecond());
  CHECK(successor.fences.hold(lanes({0, 63})) == 0);

  SUBCASE("the first fence is free, and the relay gets it") {
    old.reset();
    CHECK(eventually(10s, [&] {
      again->fences.leaveSecond();
      return !again->fences.anySecond();
    }));
    CHECK(successor.fences.hold(lanes({0, 63})) == 0);
  }
  SUBCASE("the first fence is free, and the successor gets it") {
    old.reset();
    CHECK(eventually(10s, [&] { return !successor.isThere(1); }));  // all of them have gone
    CHECK(successor.fences.hold(lanes({0, 63})) == 0);
    again->fences.leaveSecond();
    CHECK(again->fences.anySecond());
  }
  again.reset();
  CHECK(eventually(10s, [&] { return successor.fences.hold(lanes({0, 63})) == lanes({0, 63}); }));
}

TEST_CASE("a relay that the network has cut off from its own fences goes on elsewhere at once") {
  RelayedOutbox outbox;
  support::TcpGate first(Servers::mq().port());
  support::TcpGate second(Servers::mq().port());
  auto options = relayOptions(outbox.database, outbox.exchange);
  std::string url = Servers::mq().urlThrough(first.port());
  const std::string port = std::to_string(first.port());
  options.broker.url = url.replace(url.rfind(port), port.size(),
                                   port + ",127.0.0.1:" + std::to_string(second.port()));
  options.broker.heartbeat = 60s;    // the broker does not notice for two minutes,
  options.broker.stallTimeout = 2s;  // and the relay does
  const auto relay = Relay::create(options);
  relay->start();
  support::TcpGate* used = nullptr;
  outbox.publisher->publish(Event("t", {{"n", 1}}).setKey("k"));
  REQUIRE(outbox.queue.read(1).size() == 1);
  used = first.connections() > 0 ? &first : &second;
  used->stall();
  const auto begin = std::chrono::steady_clock::now();
  outbox.publisher->publish(Event("t", {{"n", 2}}).setKey("k"));
  CHECK(outbox.queue.read(1, 60s).size() == 1);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  MESSAGE("went on after " << took.count() << " s, of which the stall limit is 2 s");
  CHECK(took < 20s);
}

TEST_CASE("no policy for all queues takes a fence away: expiry, length, time to live") {
  for (const std::string definition :
       {R"({"expires":500})", R"({"expires":500,"max-length":0,"message-ttl":0})",
        R"({"max-length":1,"overflow":"reject-publish","message-ttl":1})"}) {
    CAPTURE(definition);
    const Policy policy(definition);
    Holder holder;
    REQUIRE(holder.fences.hold(lanes({0, 63})) == lanes({0, 63}));
    CHECK(holder.keepsFirstAndLast());
    CHECK(holder.fences.takeLost() == 0);
  }
}

TEST_CASE("a policy that is set while fences are held takes none away either") {
  Holder holder;
  REQUIRE(holder.fences.hold(lanes({1})) == lanes({1}));
  const Policy policy(R"({"expires":500})");
  CHECK(holdsFor(2s, [&] { return holder.isThere(1); }));
}

TEST_CASE("a fence that was deleted at the broker is told by its lane, once, and taken again") {
  Holder holder;
  REQUIRE(holder.fences.hold(lanes({2, 3, 4})) == lanes({2, 3, 4}));
  Servers::mq().deleteQueue(holder.fence(3));
  outbox::Lanes lost = 0;
  CHECK(eventually(5s, [&] {
    holder.listen();
    lost |= holder.fences.takeLost();
    return lost != 0;
  }));
  CHECK(lost == lanes({3}));
  CHECK(holder.fences.takeLost() == 0);
  Holder other(holder.prefix);
  CHECK(other.fences.hold(lanes({2, 3, 4})) == lanes({3}));
  CHECK(holder.fences.hold(lanes({2, 3, 4})) == lanes({2, 4}));
  other.fences.keepOnly(0);
  CHECK(holder.fences.hold(lanes({2, 3, 4})) == lanes({2, 3, 4}));
}

TEST_CASE("a fence that its holder lets go is not lost, and can be held again at once") {
  Holder holder;
  for (int i = 0; i < 20; ++i) {
    REQUIRE(holder.fences.hold(lanes({5})) == lanes({5}));
    holder.fences.keepOnly(0);
    REQUIRE(holder.fences.hold(lanes({5})) == lanes({5}));
    holder.listen();
    CHECK(holder.fences.takeLost() == 0);
    holder.fences.keepOnly(0);
  }
}

TEST_CASE("messages that somebody sends to a fence disturb nobody") {
  Holder holder;
  REQUIRE(holder.fences.hold(lanes({6})) == lanes({6}));
  amqp::Connection sender(brokerOptions("unused"), "test");
  sender.selectConfirms("");
  amqp::Message message;
  message.routingKey = holder.fence(6);
  message.body = std::string(300'000, 'x');
  for (int i = 0; i < 20; ++i) CHECK(amqp::publishAndWait(sender, message, 5s));
  CHECK(eventually(5s, [&] {
    CHECK_FALSE(holder.connection.receive(10ms));
    return Servers::mq().queueDepth(holder.fence(6)) == 0;
  }));
  CHECK(holder.fences.takeLost() == 0);
}

TEST_CASE("the right to hold fences is looked for without taking one from anybody") {
  Holder holder;
  holder.fences.requireRights();
  REQUIRE(holder.fences.hold(kAllLanes) == kAllLanes);
  Holder other(holder.prefix);
  other.fences.requireRights();
  CHECK(holder.fences.takeLost() == 0);
  for (const auto& [configure, read] : {std::pair("^$", ".*"), std::pair(".*", "^$")}) {
    Servers::mq().addUser("limited", "secret", configure, ".*", read);
    auto options = brokerOptions("unused");
    options.url = Servers::mq().url("limited", "secret");
    amqp::Connection connection(options, "test");
    Fences fences(connection, holder.prefix);
    CHECK_THROWS_WITH_AS(fences.requireRights(), doctest::Contains("pillion.fence"), ConfigError);
  }
}

TEST_CASE("a relay whose fences are deleted takes them again, says so, and loses nothing") {
  WatchedFlow flow;
  auto relay = startRelayProcess(flow.database, flow.exchange);
  flow.beginWriting(5, 1ms);
  REQUIRE(flow.arrivals.reach(200, 30s));
  const auto fences = [] {
    return Servers::mq().eval(
        "lists:sort([element(4, amqqueue:get_name(Q)) || Q <- rabbit_amqqueue:list(),"
        " binary:match(element(4, amqqueue:get_name(Q)), <<\"pillion.fence.\">>) =/= nomatch])");
  };
  const std::string before = fences();
  REQUIRE(before.size() > 64 * 10);
  Servers::mq().eval(
      "[rabbit_amqqueue:delete(Q, false, false, <<\"test\">>) || Q <- rabbit_amqqueue:list(),"
      " binary:match(element(4, amqqueue:get_name(Q)), <<\"pillion.fence.\">>) =/= nomatch], ok");
  CHECK(eventually(10s, [&] { return fences() == before; }));
  CHECK(relay.output().find("deleted at the broker") != std::string::npos);
  flow.endWriting();
  CHECK(flow.allArrived());
  CHECK(flow.arrivals.outOfOrder() == 0);
  CHECK(relay.terminate(15s) == 0);
}

TEST_CASE("a queue that somebody gave a fence's name costs that lane alone, until it is deleted") {
  Holder holder;
  amqp::Connection neighbour(brokerOptions("unused"), "test");
  neighbour.declareQueue({.name = holder.fence(3),
                          .exclusive = false,
                          .textArguments = {{"x-queue-type", "quorum"}},
                          .numberArguments = {}});
  CHECK(holder.fences.hold(lanes({2, 3, 4})) == lanes({2, 4}));
  CHECK(holder.fences.takeLost() == 0);
  Servers::mq().deleteQueue(holder.fence(3));
  CHECK(holder.fences.hold(lanes({2, 3, 4})) == lanes({2, 3, 4}));
}

TEST_CASE("an operator's policy, which wins over a queue's own wishes, takes no fence away") {
  const Policy policy(R"({"expires":500,"max-length":0})", "operator_policy");
  Holder holder;
  CHECK(holder.fences.hold(lanes({0, 63})) == lanes({0, 63}));
  CHECK(holder.keepsFirstAndLast());
  CHECK(holder.fences.takeLost() == 0);
}

}  // namespace pillion::test
