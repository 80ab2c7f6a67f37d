// Instances of one consumer that share its partitions, each key in its order.
#define PILLION_TEST_MAIN
#include <algorithm>
#include <csignal>
#include <nlohmann/json.hpp>
#include <thread>

#include "consumer_fixture.hpp"
#include "event/event_id.hpp"
#include "inbox/group_table.hpp"
#include "inbox/partition_change.hpp"

namespace pillion::test {
namespace {

/// Do so many instances live, and has each of them so many partitions, with none left over?
bool isShared(const World& world, std::size_t instances, std::size_t each) {
  const auto groups = readGroupStatus(world.database.options());
  if (groups.size() != 1 || groups[0].instances.size() != instances) return false;
  return static_cast<std::size_t>(groups[0].partitions) == instances * each &&
         std::ranges::all_of(groups[0].instances, [&](const InstanceStatus& one) {
           return !one.gone && one.partitions.size() == each;
         });
}

/// Publishes what `interleaved` makes, round after round, until it is destroyed.
class Load {
 public:
  Load(const World& world, int keys)
      : thread_([this, &world, keys](const std::stop_token& stop) {
          while (!stop.stop_requested()) {
            send(world.exchange, withLanes(interleaved(keys, 1, rounds_ + 1)));
            ++rounds_;
          }
        }) {}
  int stop() {
    thread_.request_stop();
    thread_.join();
    return rounds_;
  }

 private:
  std::atomic<int> rounds_{0};
  std::jthread thread_;
};

using Processes = std::vector<std::unique_ptr<ConsumerProcess>>;

/// One whose handlers do not return while `hangs`.
std::unique_ptr<EventConsumer> hangingConsumer(const ConsumerOptions& options,
                                               const std::string& service,
                                               const std::atomic<bool>& hangs) {
  auto consumer = EventConsumer::create(service, {"#"}, options);
  consumer->onEvent("#", [&hangs](const Event& event, Transaction& tx) {
    writeJournal(event, tx);
    while (hangs) std::this_thread::sleep_for(5ms);
  });
  return consumer;
}

const std::vector<std::string> kTwelve{"partitions=12", "prefetch=600", "batch=20", "heartbeat=2"};

std::unique_ptr<ConsumerProcess> startOne(const World& world) {
  auto process = std::make_unique<ConsumerProcess>(world, "shared", "", kTwelve);
  process->awaitReady();
  return process;
}

}  // namespace

TEST_CASE(
    "three instances are killed, paused and stopped in turn: once, in order, in fair shares") {
  const World world;
  constexpr int kKeys = 300;
  Processes processes;
  for (int i = 0; i < 3; ++i) processes.push_back(startOne(world));
  REQUIRE(eventually(20s, [&] { return isShared(world, 3, 4); }));
  Load load(world, kKeys);
  REQUIRE(eventually(20s, [&] { return world.journal() > 20 * kKeys; }));
  const std::string least =
      "select min(n) * 100 / sum(n) from (select count(*) n from journal group by note) t";
  const std::string workers = "select count(distinct note) from journal";
  CHECK(world.database.count(workers) == 3);
  CHECK(world.database.count(least) >= 25);
  const auto end = std::chrono::steady_clock::now() + 60s;
  for (std::size_t turn = 0; std::chrono::steady_clock::now() < end; ++turn) {
    auto& one = processes[turn % 3];
    switch (turn % 4) {
      case 0:
        one->process().signal(SIGKILL);
        one = startOne(world);
        break;
      case 1:
        one->process().signal(SIGSTOP);
        eventually(12s, [&] { return isShared(world, 2, 6); });
        one->process().signal(SIGCONT);
        break;
      case 2:
        one->stop();
        one = startOne(world);
        break;
      default:  // all at once go on without a third
        one->stop();
        CHECK(eventually(20s, [&] { return isShared(world, 2, 6); }));
        one = startOne(world);
    }
    CHECK(eventually(20s, [&] { return isShared(world, 3, 4); }));
  }
  const long sent = static_cast<long>(load.stop()) * kKeys;
  CHECK(eventually(60s, [&] { return world.journal() >= sent; }));
  CHECK(world.journal() == sent);
  CHECK(world.journalIds() == sent);
  CHECK(world.ordered());
  for (auto& one : processes) CHECK(one->stop()["dead"] == 0);
}

TEST_CASE("one partition that may not be consumed costs the others nothing") {
  const World world;
  auto options = world.consumerOptions();
  options.partitions = 2;
  options.deliveryLimit = 3;
  { journalConsumer(options, "partly")->start(); }
  Servers::mq().addUser("partly", "secret", ".*", ".*", "^(?!.*\\.p1$).*");
  options.broker.url = Servers::mq().url("partly", "secret");
  CHECK_THROWS_AS(journalConsumer(options, "partly")->start(), ConfigError);  // it is said at once
  Servers::mq().addUser("partly", "secret", ".*", ".*", ".*");
  const LogCapture log;
  const auto consumer = journalConsumer(options, "partly");
  consumer->start();
  Servers::mq().addUser("partly", "secret", ".*", ".*", "^(?!.*\\.p1$).*");
  Servers::mq().closeAllConnections();
  REQUIRE(eventually(20s, [&] { return log.count("queue 'partly.events.p1' waits") > 0; }));
  send(world.exchange, withLanes(interleaved(40, 5)));
  const auto depth = [](const std::string& queue) { return Servers::mq().queueDepth(queue); };
  CHECK(eventually(20s, [&] { return depth("partly.events.p0") == 0; }));
  const long refused = depth("partly.events.p1");
  CHECK(refused > 0);
  CHECK(eventually(20s, [&] { return world.journal() == 200 - refused; }));
  CHECK(depth("partly.events.dead") == 0);
  Servers::mq().addUser("partly", "secret", ".*", ".*", ".*");
  CHECK(eventually(20s, [&] { return world.journal() == 200; }));
  CHECK(eventually(20s, [&] { return log.count("queue 'partly.events.p1' goes on") > 0; }));
  CHECK(world.ordered());
}

TEST_CASE(
    "a handler that hangs keeps its partitions from another instance for a while, and no more") {
  const World world;
  auto options = world.consumerOptions();
  options.partitions = 2;
  options.stopTimeout = 500ms;
  std::atomic<bool> hangs{true};
  const auto hanging = hangingConsumer(options, "stuck", hangs);
  hanging->start();
  const auto events = withLanes(interleaved(40, 1));
  send(world.exchange, std::span(events).first(1));
  REQUIRE(eventually(20s, [&] { return hanging->stats().longestRunning > 1ms; }));
  const auto other = journalConsumer(options, "stuck");
  other->start();
  CHECK(eventually(20s, [&] { return isShared(world, 2, 1) || isShared(world, 1, 2); }));
  hanging->stop();  // leaves the handler behind
  send(world.exchange, std::span(events).subspan(1));
  CHECK(
      eventually(20s, [&] { return world.journal() >= 38; }));  // but for its key, whose id it has
  hangs = false;
  CHECK(eventually(20s, [&] { return world.journal() == 40; }));
  CHECK(world.journalIds() == 40);
}

TEST_CASE("without the database nobody consumes, and all go on when it is back") {
  const World world;
  auto options = world.consumerOptions();
  options.partitions = 3;
  const auto consumer = journalConsumer(options, "based");
  consumer->start();
  send(world.exchange, withLanes(interleaved(20, 2)));
  REQUIRE(eventually(20s, [&] { return world.journal() == 40; }));
  Servers::pg().stop();
  send(world.exchange, withLanes(interleaved(20, 2, 3)));
  Servers::pg().start();
  CHECK(eventually(30s, [&] { return world.journal() == 80; }));
  CHECK(world.journalIds() == 80);
  CHECK(world.ordered());
}

TEST_CASE("the number of partitions changes under load: nothing is lost, and each key in order") {
  const World world;
  constexpr int kKeys = 100;
  const std::vector<std::string> arguments{"partitions=3", "prefetch=200", "batch=20",
                                           "heartbeat=2"};
  Processes processes;
  for (int i = 0; i < 2; ++i) {
    processes.push_back(std::make_unique<ConsumerProcess>(world, "grown", "", arguments));
    processes.back()->awaitReady();
  }
  Load load(world, kKeys);
  int generation = 1;
  for (const int partitions : {8, 2}) {
    CAPTURE(partitions);
    changePartitions(world.database.options(), "grown.events", partitions);
    if (partitions == 2) {  // whoever takes over goes on with the change
      processes[0]->process().signal(SIGKILL);
      processes[0] = std::make_unique<ConsumerProcess>(world, "grown", "", arguments);
    }
    ++generation;
    REQUIRE(eventually(60s, [&] {
      const auto groups = readGroupStatus(world.database.options());
      return groups.at(0).generation == generation && groups.at(0).nextPartitions == 0;
    }));
    CHECK(eventually(20s,
                     [&] { return isShared(world, 2, static_cast<std::size_t>(partitions) / 2); }));
  }
  const long sent = static_cast<long>(load.stop()) * kKeys;
  CHECK(eventually(60s, [&] { return world.journal() >= sent; }));
  CHECK(world.journal() == sent);
  CHECK(world.journalIds() == sent);
  CHECK(world.ordered());
  for (const std::string queue : {"grown.events.p0", "grown.events.p7.2"}) {
    CHECK(eventually(60s, [&] { return !Servers::mq().queueExists(queue); }));
  }
  CHECK(Servers::mq().queueExists("grown.events.p1.3"));
  for (auto& one : processes) CHECK(one->stop()["dead"] == 0);
}

TEST_CASE("an instance that has not heard of a change keeps the queues that it may bind in use") {
  const World world;
  auto options = world.consumerOptions();
  options.partitions = 2;
  const auto consumer = journalConsumer(options, "unheard");
  consumer->start();
  const inbox::Member slow{
      .consumer = "unheard.events", .instance = makeEventId(), .name = "slow:1"};
  const auto turn = [&](int known) {
    auto connection = world.database.connect();
    pqxx::nontransaction tx(connection);
    inbox::sharePartitions(tx, "pillion", slow, 2, 1h, {}, {.known = known});
  };
  turn(1);
  changePartitions(world.database.options(), "unheard.events", 3);
  REQUIRE(eventually(20s, [&] { return Servers::mq().queueExists("unheard.events.p2.2"); }));
  // It would bind them again, and what came in between would be in the next queues only.
  for (int round = 0; round < 8; ++round) {
    send(world.exchange, withLanes(interleaved(10, 1, round + 1)));
    CHECK(eventually(20s, [&] { return world.journal() == 10 * (round + 1); }));
  }
  CHECK(world.database.query("select bound_at is null and generation = 1 from"
                             " pillion.inbox_group") == "t");
  turn(2);
  CHECK(eventually(
      60s, [&] { return readGroupStatus(world.database.options()).at(0).generation == 2; }));
  send(world.exchange, withLanes(interleaved(10, 1, 9)));
  CHECK(eventually(20s, [&] { return world.journal() == 90; }));
  CHECK(world.journalIds() == 90);
  CHECK(world.ordered());
}

TEST_CASE("pillion partitions shows who has which and has their number changed, or says why not") {
  const World world;
  const auto said = [&](const std::vector<std::string>& arguments, int status = 0) {
    support::ProcessOptions options;
    options.command = {PILLION_PROGRAM, "partitions"};
    options.command.insert(options.command.end(), arguments.begin(), arguments.end());
    options.environment = environmentFor(world.database, world.exchange);
    const auto result = support::run(options);
    CAPTURE(result.output);
    CHECK(result.status == status);
    return result.output;
  };
  const auto has = [](const std::string& text, const std::string& part) {
    CAPTURE(text);
    CHECK(text.find(part) != std::string::npos);
  };
  has(said({"--service", "told"}, 2), "no consumer 'told.events' with partitions has been started");
  has(said({}, 2), "needs --service, or --queue");
  auto options = world.consumerOptions();
  options.partitions = 3;
  const auto consumer = journalConsumer(options, "told");
  consumer->start();
  REQUIRE(eventually(20s, [&] { return isShared(world, 1, 3); }));
  const std::string shown = said({"--service", "told"});
  has(shown, "consumer told.events: 3 partitions");
  has(shown, " 0-2");
  CHECK(said({"--service", "told", "--set", "65"}, 2).find("Assertion") == std::string::npos);
  said({"--queue", "told.events", "--set", "3"});  // as it is
  has(said({"--queue", "told.events", "--set", "2"}), "3 partitions, being changed to 2: 0 of 3");
  has(said({"--queue", "told.events", "--set", "5"}, 2), "wait until that is done");
  CHECK(eventually(60s, [&] { return isShared(world, 1, 2); }));
  const auto json = nlohmann::json::parse(said({"--service", "told", "--json"}));
  CHECK(json["partitions"] == 2);
  CHECK(json["generation"] == 2);
  CHECK(json["next_partitions"] == 0);
  CHECK(json["instances"][0]["partitions"] == nlohmann::json{0, 1});
}

TEST_CASE("publishers that are blocked hold up a change of partitions, and no ack") {
  const World world;
  auto options = world.consumerOptions();
  options.partitions = 2;
  std::atomic<bool> hangs{true};
  const auto consumer = hangingConsumer(options, "flooded", hangs);
  consumer->start();
  send(world.exchange, withLanes(interleaved(40, 1)));
  std::optional<MemoryAlarm> alarm(std::in_place);
  changePartitions(world.database.options(), "flooded.events", 3);
  REQUIRE(eventually(30s, [&] {
    return world.database.query(
               "select coalesce(bound_at < now() - interval '8 s', false) from"
               " pillion.inbox_group") == "t";
  }));
  hangs = false;  // the markers have been tried
  CHECK(eventually(20s, [&] { return world.journal() == 40; }));
  for (const std::string queue : {"flooded.events.p0", "flooded.events.p1"}) {
    CHECK(eventually(20s, [&] { return Servers::mq().queueDepth(queue) == 0; }));
  }
  const auto generation = [&] {
    return readGroupStatus(world.database.options()).at(0).generation;
  };
  CHECK(generation() == 1);
  alarm.reset();
  CHECK(eventually(60s, [&] { return generation() == 2; }));
}

TEST_CASE("a queue of before that somebody else deletes is waited for no more") {
  const World world;
  base::WakeEvent wake;
  inbox::DeliveryQueue queue(wake);
  amqp::Connection connection(brokerOptions(world.exchange), "test");
  inbox::QueueConsumers consumers("bygone.events", {}, {}, queue);
  amqp::ConsumerTopology topology{.inbox = "bygone",
                                  .exchange = world.exchange,
                                  .queue = "bygone.events",
                                  .patterns = {"#"},
                                  .deliveryLimit = 10,
                                  .partitions = 2};
  amqp::declare(connection, topology);
  topology.generation = 2;
  amqp::declare(connection, topology);
  inbox::PartitionChange change(consumers, queue);
  const inbox::Assignment now{.generation = 2, .partitions = 2, .wanted = {0, 1}};
  change.note(now);
  change.look(connection, topology, now);
  CHECK(change.retired(now) == inbox::QueueNames{"bygone.events.p0", "bygone.events.p1"});
  Servers::mq().deleteQueue("bygone.events.p1");
  change.look(connection, topology, now);
  CHECK(change.retired(now) == inbox::QueueNames{"bygone.events.p0"});
  Servers::mq().deleteQueue("bygone.events.p0");
  change.look(connection, topology, now);
  CHECK(change.retired(now).empty());
}

TEST_CASE("a partition is not worked off while somebody else holds what it has sent") {
  const World world;
  auto options = world.consumerOptions();
  options.partitions = 2;
  { journalConsumer(options, "withheld")->start(); }
  amqp::Connection holder(brokerOptions(world.exchange), "test");
  for (const char* queue : {"withheld.events.p0", "withheld.events.p1"}) holder.consume(queue, 10);
  send(world.exchange, withLanes(interleaved(10, 3)));
  std::size_t withheld = 0;
  REQUIRE(eventually(20s, [&] {
    const auto incoming = holder.receive(100ms);
    if (incoming && std::holds_alternative<amqp::Delivery>(*incoming)) ++withheld;
    return withheld >= 11;  // of both
  }));
  const auto consumer = journalConsumer(options, "withheld");
  consumer->start();
  changePartitions(world.database.options(), "withheld.events", 3);
  const auto generation = [&] {
    return readGroupStatus(world.database.options()).at(0).generation;
  };
  CHECK(holdsFor(10s, [&] {
    holder.receive(10ms);  // its heartbeats
    return generation() == 1;
  }));
  send(world.exchange, withLanes(interleaved(10, 2, 4)));  // for the next queues
  holder.close();
  CHECK(eventually(60s, [&] { return generation() == 2; }));
  CHECK(eventually(20s, [&] { return world.journal() == 50; }));
  CHECK(world.journalIds() == 50);
  CHECK(world.ordered());
  CHECK(eventually(60s, [&] { return !Servers::mq().queueExists("withheld.events.p1"); }));
  CHECK(Servers::mq().queueDepth("withheld.events.dead") == 0);  // no marker is taken for an event
}

}  // namespace pillion::test
