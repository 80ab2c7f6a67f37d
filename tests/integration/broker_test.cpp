// What the relay does while the broker cannot or may not take its events.
#define PILLION_TEST_MAIN
#include "consumer_fixture.hpp"
#include "versioned_flow.hpp"

namespace pillion::test {
namespace {

/// An outbox into which one thread writes all the time.
struct Flow : VersionedFlow {
  Flow() : VersionedFlow(5) {}
  void begin() { beginWriting(1, 1ms); }  // a steady flow, not a flood
  /// At least what was written when this was asked.
  [[nodiscard]] bool reaches(Arrivals& arrivals) const { return arrivals.reach(written(), 30s); }
  [[nodiscard]] long parked() const {
    return database.count("select count(*) from pillion.parked");
  }
  /// How often the parked ones were tried.
  [[nodiscard]] long attempts() const {
    return database.count("select sum(attempts) from pillion.parked");
  }
  /// The same once it stays: the last attempt may be written yet, no further one is made.
  [[nodiscard]] long attemptsAtRest() const {
    long tried = 0;
    REQUIRE(eventually(10s, [&] {
      tried = attempts();
      return holdsFor(1s, [&] { return attempts() == tried; });
    }));
    return tried;
  }
  /// Nothing that happened was taken for an event's fault.
  [[nodiscard]] bool nobodyIsBlamed() const {
    return database.query(
               "select sum(crashes) || ' ' || (select count(in_hand_id) from pillion.relay)"
               " from pillion.lane") == "0 0";
  }
};

/// By the broker itself: nobody's connection is touched.
bool exchangeExists(const std::string& exchange) {
  return Servers::mq().eval(
             "element(1, rabbit_exchange:lookup(rabbit_misc:r(<<\"/\">>, exchange, <<\"" +
             exchange + "\">>)))") == "ok";
}

bool says(const support::Process& process, const std::string& text) {
  return process.output().find(text) != std::string::npos;
}

}  // namespace

TEST_CASE("an alarm in the middle of the flow: said once, nothing parked or blamed, all goes on") {
  Flow flow;
  TestQueue queue(flow.exchange, "order.*");
  const LogCapture log;
  auto options = relayOptions(flow.database, flow.exchange);
  options.broker.stallTimeout = 1s;  // being blocked is not being stalled
  const auto relay = Relay::create(options);
  relay->start();
  // Parked before it, and tried again every 200 ms.
  flow.publisher->publish(Event("nobody.listens", {{"n", -1}}));
  REQUIRE(eventually(10s, [&] { return flow.parked() == 1; }));
  flow.begin();
  Arrivals arrivals(queue);
  REQUIRE(arrivals.reach(200, 30s));
  {
    const MemoryAlarm alarm;
    REQUIRE(eventually(10s, [&] { return log.count("blocks publishers") == 1; }));
    const long tried = flow.attemptsAtRest();
    const auto published = relay->stats().published;
    const std::size_t before = flow.written();
    CHECK(holdsFor(3s, [&] { return relay->stats().published == published; }));
    CHECK(flow.written() > before);  // producers are not held up
    CHECK(flow.attempts() == tried);
    CHECK(flow.parked() == 1);
    CHECK(flow.nobodyIsBlamed());
  }
  CHECK(flow.reaches(arrivals));
  flow.endWriting();
  CHECK(flow.reaches(arrivals));
  CHECK(arrivals.outOfOrder() == 0);
  CHECK(flow.parked() == 1);
  CHECK(relay->stats().repeated == 0);
  CHECK(log.count("blocks publishers") == 1);
  CHECK(log.count("accepts messages again") == 1);
  CHECK(log.count(" waits: ") == 0);
}

TEST_CASE("an exchange deleted in mid-flow is declared again by the relay itself, none is lost") {
  Flow flow;
  const auto relay = Relay::create(relayOptions(flow.database, flow.exchange));
  relay->start();
  // Nobody but the relay declares it, here and below.
  REQUIRE(eventually(10s, [&] { return exchangeExists(flow.exchange); }));
  TestQueue queue(flow.exchange);
  flow.begin();
  Arrivals arrivals(queue);
  REQUIRE(arrivals.reach(200, 30s));
  Servers::mq().deleteExchange(flow.exchange);
  REQUIRE(eventually(20s, [&] { return exchangeExists(flow.exchange); }));
  // Without a binding, and nothing may be lost for that either.
  REQUIRE(eventually(10s, [&] { return flow.parked() > 0; }));
  amqp::Connection connection(brokerOptions(flow.exchange), "test");
  connection.bindQueue(queue.name(), flow.exchange, "#");
  connection.close();
  CHECK(flow.reaches(arrivals));
  flow.endWriting();
  CHECK(flow.reaches(arrivals));
  CHECK(arrivals.outOfOrder() == 0);
  CHECK(eventually(10s, [&] { return drained(flow.database); }));
}

TEST_CASE("with --no-declare a lost exchange is waited for, and it is said why") {
  Flow flow;
  TestQueue queue(flow.exchange, "order.*");
  auto relay = startRelayProcess(flow.database, flow.exchange, "", {"--no-declare"});
  flow.publisher->publish(Event("nobody.listens", {{"n", -1}}));
  REQUIRE(eventually(20s, [&] { return flow.parked() == 1; }));
  flow.begin();
  Arrivals arrivals(queue);
  REQUIRE(arrivals.reach(200, 30s));
  Servers::mq().deleteExchange(flow.exchange);
  CHECK(eventually(20s, [&] { return says(relay, "exchange '" + flow.exchange + "'"); }));
  CHECK(eventually(20s, [&] { return says(relay, "does not exist and declareTopology is off"); }));
  const long tried = flow.attemptsAtRest();
  CHECK(holdsFor(3s, [&] { return !exchangeExists(flow.exchange) && flow.parked() == 1; }));
  CHECK(flow.attempts() == tried);
  CHECK(flow.nobodyIsBlamed());
  CHECK(relay.running());

  // The operator makes exchange and binding, in this order, so the first may come between.
  arrivals.readFor(200ms);
  amqp::Connection connection(brokerOptions(flow.exchange), "test");
  connection.declareTopicExchange(flow.exchange);
  connection.bindQueue(queue.name(), flow.exchange, "order.*");
  connection.close();
  CHECK(flow.reaches(arrivals));
  flow.endWriting();
  CHECK(flow.reaches(arrivals));
  CHECK(arrivals.outOfOrder() == 0);
  CHECK(eventually(10s, [&] { return readOutboxStatus(flow.database.options()).pending == 0; }));
  CHECK(eventually(10s, [&] { return flow.parked() == 1; }));
  CHECK(relay.terminate(15s) == 0);
}

TEST_CASE("with --no-declare and without the exchange a relay does not start: an operator must") {
  const TestDatabase database;
  auto relay = startRelayProcess(database, uniqueName("missing"), "", {"--no-declare"});
  CHECK(relay.waitFor(20s) == 2);
  CHECK(says(relay, "does not exist and declareTopology is off"));
}

TEST_CASE("a relay whose user may declare nothing works with --no-declare and --no-fence") {
  Flow flow;
  TestQueue queue(flow.exchange);
  const std::string user = uniqueName("only-writes");
  Servers::mq().addUser(user, "secret", "^$", ".*", "^$");
  const std::vector<std::string> arguments{"--amqp-url", Servers::mq().url(user, "secret"),
                                           "--no-declare"};
  flow.begin();
  Arrivals arrivals(queue);
  {
    // With the fence it ends and says what it may not do.
    auto fenced = startRelayProcess(flow.database, flow.exchange, "", arguments);
    CHECK(fenced.waitFor(20s) == 2);
    CHECK(says(fenced, "pillion.fence."));
  }
  auto unfenced = arguments;
  unfenced.emplace_back("--no-fence");
  auto relay = startRelayProcess(flow.database, flow.exchange, "", unfenced);
  CHECK(arrivals.reach(200, 30s));
  CHECK(Servers::mq().eval("length([Q || Q <- rabbit_amqqueue:list(), binary:match("
                           "element(4, amqqueue:get_name(Q)), <<\"pillion.fence.\">>) =/="
                           " nomatch])") == "0");
  flow.endWriting();
  CHECK(flow.reaches(arrivals));
  CHECK(arrivals.outOfOrder() == 0);
  CHECK(relay.terminate(15s) == 0);
  CHECK(drained(flow.database));
}

}  // namespace pillion::test
