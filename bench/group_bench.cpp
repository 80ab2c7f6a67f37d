#include "group_bench.hpp"

#include <csignal>
#include <pillion/group.hpp>
#include <thread>

#include "consumer_child.hpp"
#include "event_feed.hpp"
#include "steady_load.hpp"
#include "support/eventually.hpp"

namespace pillion::bench {
namespace {

constexpr const char* kAccounts =
    "create table account (id int primary key, balance bigint not null) with (fillfactor = 50);"
    "insert into account select g, 0 from generate_series(0, 9999) g; analyze account;";
constexpr int kWorkers = 4;
constexpr std::chrono::milliseconds kHandlerWaits{2};
/// Applied while the instances come to their shares, and not measured.
constexpr long kWhileSharing = 20'000;
constexpr int kPerSecond = 400;
constexpr std::chrono::seconds kLimit{60};

void must(bool holds, const std::string& what) {
  if (!holds) throw std::runtime_error("group: " + what);
}

/// A consumer with partitions, and an exchange and a database of its own.
class Group {
 public:
  Group(BenchServers& servers, std::string service, const std::string& tables)
      : servers_(servers), service_(std::move(service)), database_(servers.createDatabase()) {
    servers.postgres.execute(database_, tables);
    create(ConsumerOptions())->start();  // declares
  }
  ~Group() {
    for (int i = 0; i < kPartitions; ++i) {
      try {
        servers_.rabbit.deleteQueue(service_ + ".events.p" + std::to_string(i));
      } catch (const std::exception& error) {
        std::fprintf(stderr, "  a queue stays: %s\n", error.what());
      }
    }
  }
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;

  [[nodiscard]] const std::string& service() const { return service_; }
  [[nodiscard]] const std::string& database() const { return database_; }
  [[nodiscard]] BrokerOptions broker() const {
    BrokerOptions broker = servers_.broker();
    broker.exchange = "exchange of " + service_;
    return broker;
  }

  [[nodiscard]] std::unique_ptr<EventConsumer> create(ConsumerOptions options) const {
    options.database = servers_.database(database_);
    options.broker = broker();
    options.partitions = kPartitions;
    auto consumer = EventConsumer::create(service_, {"#"}, options);
    consumer->onEvent("#", [](const Event& event, Transaction& tx) {
      std::this_thread::sleep_for(kHandlerWaits);
      tx.exec_params(kUpdate, event.key());
    });
    return consumer;
  }

  /// Waits until so many instances live, and each has its fair share.
  void awaitShared(std::size_t instances) const {
    const auto isShared = [&] {
      const auto groups = readGroupStatus(servers_.database(database_));
      if (groups.size() != 1 || groups[0].instances.size() != instances) return false;
      std::size_t held = 0;
      for (const InstanceStatus& one : groups[0].instances) {
        if (one.gone || !one.ready || one.partitions.size() < kPartitions / instances) return false;
        held += one.partitions.size();
      }
      return held == kPartitions;
    };
    must(support::eventually(kLimit, isShared),
         std::to_string(instances) + " instances do not come to fair shares");
  }

 private:
  BenchServers& servers_;
  std::string service_;
  std::string database_;
};

/// Events per second of so many instances, from when they have their shares.
double rateOf(BenchServers& servers, int run, std::size_t instances, long events) {
  const Group group(servers, "sharing-" + std::to_string(run), kAccounts);
  feed(group.broker(), 1, kWhileSharing + events);
  servers.postgres.execute(group.database(), "checkpoint");
  ConsumerOptions options;
  options.workers = kWorkers;
  std::vector<std::unique_ptr<EventConsumer>> consumers;
  for (std::size_t i = 0; i < instances; ++i) {
    consumers.push_back(group.create(options));
    consumers.back()->start();
  }
  const auto applied = [&] {
    long sum = 0;
    for (const auto& one : consumers) sum += static_cast<long>(one->stats().applied);
    return sum;
  };
  group.awaitShared(instances);
  const long from = applied();
  const auto start = Steady::now();
  must(from < kWhileSharing, "the instances have come to their shares too late");
  must(support::eventually(5 * kLimit, [&] { return applied() >= from + events; }),
       "events are not applied");
  return static_cast<double>(applied() - from) / secondsSince(start);
}

/// Instances that come and go under a steady load of all partitions.
class Rebalance {
 public:
  explicit Rebalance(BenchServers& servers)
      : servers_(servers),
        group_(servers, "rebalanced", kJournal),
        load_([this](const std::stop_token& stop) { publish(stop); }) {
    start();
    start();
    awaitApplied();
  }

  // Each returns for how long the partition that had to wait longest stood still, in seconds.
  double add() {
    return longestGap([&] { start(); });
  }
  double kill() {
    return longestGap([&] {
      instances_.front().signal(SIGKILL);
      instances_.erase(instances_.begin());
    });
  }
  double stop() {
    return longestGap([&] {
      instances_.front().terminate(std::chrono::seconds(40));
      instances_.erase(instances_.begin());
    });
  }

 private:
  void start() {
    auto options = childOptions(servers_, group_.database(), group_.broker().exchange,
                                {"group-child", group_.service()});
    options.output = servers_.directory / "group.log";
    instances_.emplace_back(options);
  }

  void publish(const std::stop_token& stop) const try {
    amqp::Connection connection(group_.broker(), "bench load");
    connection.selectConfirms(group_.broker().exchange);
    long number = 0;
    atRate(kPerSecond, std::chrono::hours(1), stop, [&] {
      connection.publish(messageOf(1, number++));
      while (connection.receive(std::chrono::milliseconds(0))) {
      }
    });
  } catch (const std::exception& error) {
    std::fprintf(stderr, "  the load ended: %s\n", error.what());
  }

  [[nodiscard]] std::string ask(const std::string& question) const {
    return servers_.postgres.query(group_.database(), question);
  }
  [[nodiscard]] std::string now() const { return ask("select clock_timestamp()"); }

  /// Waits for fair shares, and until every partition has gone on since.
  void awaitApplied() const {
    group_.awaitShared(instances_.size());
    const std::string shared = now();
    must(support::eventually(kLimit,
                             [&] {
                               return ask("select count(distinct partition) from journal"
                                          " where at > '" +
                                          shared + "'") == std::to_string(kPartitions);
                             }),
         "a partition does not go on");
  }

  template <typename Change>
  double longestGap(const Change& change) {
    const std::string begin = now();
    change();
    awaitApplied();
    const std::string gaps =
        "select at, at - lag(at) over (partition by partition order by at) as gap from journal"
        " where at > '" +
        begin + "'::timestamptz - interval '10 s'";
    return std::stod(ask("select extract(epoch from max(gap)) from (" + gaps + ") g where at > '" +
                         begin + "'"));
  }

  BenchServers& servers_;
  Group group_;
  std::vector<support::Process> instances_;
  std::jthread load_;
};

class GroupBench {
 public:
  GroupBench(Report& report, BenchServers& servers) : report_(report), servers_(servers) {}

  void run() {
    report_.measure({"group_of_two"}, [&] {
      const long events = report_.scaled(30'000);
      report_.compare(
          "group_of_two", 3, [&] { return rateOf(servers_, ++run_, 2, events); },
          [&] { return rateOf(servers_, ++run_, 1, events); });
    });
    report_.measure({"rebalance_s"}, [&] { rebalance(); });
  }

 private:
  void rebalance() {
    Rebalance group(servers_);
    std::vector<double> added;
    std::vector<double> killed;
    std::vector<double> stopped;
    for (int round = 0; round < report_.rounds(10); ++round) {
      added.push_back(group.add());
      killed.push_back(group.kill());
      added.push_back(group.add());
      stopped.push_back(group.stop());
    }
    report_.values("rebalance_s", {{"added", Report::median(added)},
                                   {"killed", Report::median(killed)},
                                   {"stopped", Report::median(stopped)}});
  }

  Report& report_;
  BenchServers& servers_;
  int run_ = 0;
};

}  // namespace

void measureGroups(Report& report, BenchServers& servers) {
  GroupBench(report, servers).run();
}

}  // namespace pillion::bench
