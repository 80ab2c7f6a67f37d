// A cluster of three broker nodes of which some are killed while events flow: nothing is lost, each
// key keeps its order, and all goes on by itself at another node.
#define PILLION_TEST_MAIN
#include <algorithm>
#include <future>

#include "consumer_fixture.hpp"
#include "support/rabbit_cluster.hpp"
#include "versioned_flow.hpp"

namespace pillion::test {
namespace {

using Clock = std::chrono::steady_clock;

/// The cluster of this program. PostgreSQL is started before it, and so ends after it.
support::RabbitCluster& cluster() {
  static const support::TemporaryDirectory directory;
  static support::RabbitCluster nodes(directory / "cluster");
  return nodes;
}

double seconds(Clock::duration time) {
  return std::chrono::duration<double>(time).count();
}

/// A quorum queue with its leader at a node of choice, read at another one, which is to live on.
class WatchedQueue {
 public:
  WatchedQueue(const std::string& exchange, int leader, int reader)
      : options_{.url = cluster().url({reader}), .exchange = exchange} {
    BrokerOptions there = options_;
    there.url = cluster().url({leader});
    amqp::Connection connection(there, "test");
    connection.declareTopicExchange(exchange);
    connection.declareQueue({.name = name_, .textArguments = {{"x-queue-type", "quorum"}}});
    connection.bindQueue(name_, exchange, "#");
    REQUIRE(eventually(10s, [&] { return cluster().leaderOf(name_) == leader; }));
  }

  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] const Versions& arrived() const { return arrived_; }

  /// Waits a moment for a message, connected to its node.
  void read() {
    if (!connection_) {
      connection_ = std::make_unique<amqp::Connection>(options_, "test");
      connection_->consume(name_, 1000);
    }
    const auto incoming = connection_->receive(100ms);
    if (!incoming) return;
    if (std::holds_alternative<amqp::ConsumerCancelled>(*incoming)) connection_.reset();
    const auto* delivery = std::get_if<amqp::Delivery>(&*incoming);
    if (delivery == nullptr) return;
    connection_->ack(*delivery);
    arrived_.add(delivery->message);
    const auto now = Clock::now();
    longestGap_ = std::max(longestGap_, now - std::exchange(lastArrival_, now));
  }

  [[nodiscard]] bool reach(std::size_t events, std::chrono::seconds limit) {
    const auto end = Clock::now() + limit;
    while (arrived_.events() < events && Clock::now() < end) read();
    return arrived_.events() >= events;
  }

  /// From now on the pauses between arrivals are measured.
  void beginMeasuring() {
    lastArrival_ = Clock::now();
    longestGap_ = {};
  }
  [[nodiscard]] Clock::duration longestGap() const { return longestGap_; }

 private:
  BrokerOptions options_;
  std::string name_ = uniqueName("queue");
  std::unique_ptr<amqp::Connection> connection_;
  Versions arrived_;
  Clock::time_point lastArrival_ = Clock::now();
  Clock::duration longestGap_{};
};

support::Process startRelay(const VersionedFlow& flow, const std::vector<int>& hosts) {
  support::ProcessOptions options;
  options.command = {PILLION_PROGRAM, "relay"};
  options.environment = {{"PILLION_DATABASE_URL", flow.database.url()},
                         {"PILLION_AMQP_URL", cluster().url(hosts)},
                         {"PILLION_EXCHANGE", flow.exchange}};
  options.output = Servers::instance().directory / (uniqueName("relay") + ".log");
  return support::Process(options);
}

/// Events on their way from a writer through a relay process to a queue at the cluster.
struct ClusterFlow : VersionedFlow {
  ClusterFlow(const std::vector<int>& relayHosts, int leader, int reader)
      : queue(exchange, leader, reader), relay(startRelay(*this, relayHosts)) {}

  /// Under load, and with relay and leader where they are to be.
  void begin(int relayAt, int leaderAt) {
    beginWriting(50, 10ms);
    REQUIRE(queue.reach(500, 30s));
    REQUIRE(relayNode() == relayAt);
    REQUIRE(cluster().leaderOf(queue.name()) == leaderAt);
    queue.beginMeasuring();
  }

  /// The relay is where its fences are.
  static int relayNode() { return cluster().nodeOf("pillion.fence."); }

  /// Does something to the cluster, and reads meanwhile.
  template <typename Action>
  void meanwhile(Action action) {
    auto done = std::async(std::launch::async, std::move(action));
    while (done.wait_for(0s) != std::future_status::ready) queue.read();
    done.get();
  }

  void kill(int node) {
    meanwhile([node] { cluster().node(node).kill(); });
  }

  void makeWhole() {
    meanwhile([] { cluster().makeWhole(); });
  }

  /// Events that are written from now on arrive.
  [[nodiscard]] bool flows(std::chrono::seconds limit = 60s) {
    return queue.reach(written() + 2000, limit);
  }

  /// Ends the load: all has arrived, in the order of each key, and nothing is left to be done.
  void finish(const std::string& what) {
    endWriting();
    CHECK(queue.reach(written(), 60s));
    MESSAGE(what << ": " << seconds(queue.longestGap()) << " s without an arrival, "
                 << queue.arrived().repeated() << " repeated, " << written() << " written");
    if (queue.longestGap() > 2s) MESSAGE(relay.output());
    CAPTURE(relay.output());
    CHECK(queue.arrived().events() == written());
    CHECK(queue.arrived().outOfOrder() == 0);
    CHECK(eventually(20s, [&] { return drained(database); }));
    CHECK(relay.terminate(15s) == 0);
  }

  WatchedQueue queue;
  support::Process relay;
};

/// A service that writes a journal of what it is told, in the outbox's own database.
struct JournalService {
  explicit JournalService(const VersionedFlow& flow) : database(flow.database) {
    database.execute(
        "create table journal (position bigserial, event_id uuid, key text, version int,"
        " at timestamptz default clock_timestamp())");
    ConsumerOptions options;
    options.database = database.options();
    options.broker.url = cluster().url({0, 1, 2});
    options.broker.exchange = flow.exchange;
    options.partitions = 1;  // so that the broker waits for the lost connection's end
    consumer = EventConsumer::create(uniqueName("service"), {"#"}, options);
    consumer->onEvent("#", [](const Event& event, Transaction& tx) {
      tx.exec_params("insert into journal (event_id, key, version) values ($1, $2, $3)", event.id(),
                     event.key(), event.data().at("version").get<int>());
    });
    consumer->start();
  }

  [[nodiscard]] int node() const { return cluster().consumerOf(consumer->queue() + ".p0"); }
  [[nodiscard]] std::size_t applied() const {
    return static_cast<std::size_t>(database.count("select count(*) from journal"));
  }
  [[nodiscard]] bool reach(std::size_t events) const {
    return eventually(60s, [&] { return applied() >= events; });
  }
  /// Effects that are not of the version after the one before of their key.
  [[nodiscard]] long outOfOrder() const {
    return database.count(
        "select count(*) from (select version, lag(version, 1, 0) over (partition by key"
        " order by position) as before from journal) j where version <> before + 1");
  }
  [[nodiscard]] std::string longestGap() const {
    return database.query(
        "select max(gap) from (select at - lag(at) over (order by position) as gap from journal) "
        "j");
  }

  const TestDatabase& database;
  std::unique_ptr<EventConsumer> consumer;
};

/// A case begins with the whole cluster, whatever the one before has left.
void prepare() {
  Servers::startWithoutRabbit();
  cluster().makeWhole();
}

}  // namespace

TEST_CASE("a relay whose broker node is killed goes on at another") {
  prepare();
  ClusterFlow flow({0, 1, 2}, 1, 2);
  flow.begin(0, 1);
  flow.kill(0);
  CHECK(flow.flows());
  CHECK(flow.relayNode() != 0);
  flow.finish("the relay's node was killed");
}

TEST_CASE("a relay goes on when the node of its queue's leader is killed") {
  prepare();
  ClusterFlow flow({0, 1, 2}, 1, 2);
  flow.begin(0, 1);
  flow.kill(1);
  CHECK(flow.flows());
  CHECK(flow.relayNode() == 0);
  flow.finish("the leader's node was killed");
}

TEST_CASE("a relay goes on when its own node is killed with the leader of its queue") {
  prepare();
  ClusterFlow flow({1, 0, 2}, 1, 2);
  flow.begin(1, 1);
  flow.kill(1);
  CHECK(flow.flows());
  flow.finish("the node of both relay and leader was killed");
}

TEST_CASE("a relay whose cluster loses its majority waits, and loses nothing when that is back") {
  prepare();
  ClusterFlow flow({0, 1, 2}, 0, 2);
  flow.begin(0, 0);
  flow.kill(0);
  flow.kill(1);
  const std::size_t before = flow.written();
  REQUIRE(eventually(10s, [&] { return flow.written() > before + 2000; }));
  CHECK(flow.queue.arrived().events() < flow.written());
  const auto begin = Clock::now();
  flow.makeWhole();
  const auto whole = Clock::now();
  CHECK(flow.flows());
  MESSAGE("the majority was back after " << seconds(whole - begin) << " s, what was written then "
                                         << seconds(Clock::now() - whole) << " s later");
  flow.finish("two of three nodes were killed and started again");
}

TEST_CASE("a relay that finds the first of its hosts down at its start begins at the next") {
  prepare();
  cluster().node(0).kill();
  ClusterFlow flow({0, 1, 2}, 1, 2);
  flow.begin(1, 1);
  flow.finish("the first host was down");
}

TEST_CASE("nodes that are killed and started again one after the other stop no relay") {
  prepare();
  ClusterFlow flow({0, 1, 2}, 0, 2);
  flow.begin(0, 0);
  for (const int node : {0, 1}) {
    flow.kill(node);
    CHECK(flow.flows());
    flow.makeWhole();
    CHECK(flow.flows());
  }
  flow.finish("two nodes were killed and started again in turn");
}

TEST_CASE(
    "a consumer whose broker node is killed goes on at another, and applies each event once") {
  prepare();
  VersionedFlow flow;
  const LogCapture log;
  JournalService service(flow);
  const int node = service.node();
  REQUIRE(node >= 0);
  const auto relay = startRelay(flow, {(node + 1) % 3, (node + 2) % 3, node});
  flow.beginWriting(20, 10ms);
  REQUIRE(service.reach(500));
  cluster().node(node).kill();
  CHECK(service.reach(flow.written() + 1000));
  const int now = service.node();
  CHECK(now >= 0);
  CHECK(now != node);
  flow.endWriting();
  CHECK(service.reach(flow.written()));
  CHECK(eventually(20s, [&] { return drained(flow.database); }));
  CHECK(service.applied() == flow.written());
  CHECK(service.outOfOrder() == 0);
  MESSAGE("the consumer's node was killed: " << service.longestGap() << " without an effect, "
                                             << service.consumer->stats().duplicates
                                             << " duplicates of " << flow.written());
  CAPTURE(log.text());
  CHECK(log.count(" waits: ") == 1);
  CHECK(log.count(" goes on") == 1);
  CHECK(relay.terminate(15s) == 0);
}

}  // namespace pillion::test
