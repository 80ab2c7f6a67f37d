#include "relay_bench.hpp"

#include <vector>

#include "drain.hpp"
#include "hot_key.hpp"
#include "latency.hpp"
#include "publish_cost.hpp"
#include "sick_bench.hpp"

namespace pillion::bench {
namespace {

constexpr long kWindow = 1'000;
constexpr int kRounds = 5;

/// One run of all workloads.
class RelayBench {
 public:
  explicit RelayBench(const BenchOptions& options) : report_(options) {}

  void run() {
    report_.measure({"drain_vs_broker", "cpu_us_per_event"}, [&] { drainAgainstBroker(); });
    report_.measure({"drain_two_relays_vs_one"}, [&] { drainWithTwoRelays(); });
    report_.measure({"latency_vs_floor"}, [&] { latencyAgainstFloor(); });
    report_.measure({"publish_cost"}, [&] { publishCostRatio(); });
    report_.measure({"notify_cost"}, [&] { notifyCostRatio("notify_cost", Idle::Awake); });
    report_.measure({"notify_cost_asleep"},
                    [&] { notifyCostRatio("notify_cost_asleep", Idle::Asleep); });
    report_.measure({"held_snapshot"}, [&] { heldSnapshot(); });
    report_.measure({"drain_big_vs_small", "relay_rss_mib"}, [&] { drainBigAgainstSmall(); });
    report_.measure({"one_key"}, [&] { oneKey(); });
    report_.measure({"hot_key"}, [&] { hotKey(); });
    measureSick(report_, servers_);
    report_.finish();
  }

 private:
  void drainAgainstBroker() {
    const long events = report_.scaled(300'000);
    std::vector<double> relay;
    std::vector<double> postgres;
    std::vector<double> broker;
    std::vector<double> client;
    report_.compare(
        "drain_vs_broker", kRounds,
        [&] {
          const Drain one = drain(servers_, {.events = events}, 1);
          relay.push_back(one.cpu.relay);
          postgres.push_back(one.cpu.postgres);
          broker.push_back(one.cpu.broker);
          return one.rate;
        },
        [&] {
          const Bare one = drainBare(servers_, events, kWindow);
          client.push_back(one.cpu);
          return one.rate;
        });
    report_.values("cpu_us_per_event",
                   {{"relay_and_postgres", Report::median(relay) + Report::median(postgres)},
                    {"relay", Report::median(relay)},
                    {"postgres", Report::median(postgres)},
                    {"bare", Report::median(client)},
                    {"broker", Report::median(broker)}});
  }

  void drainWithTwoRelays() {
    const long events = report_.scaled(300'000);
    report_.compare(
        "drain_two_relays_vs_one", kRounds,
        [&] { return drain(servers_, {.events = events}, 2).rate; },
        [&] { return drain(servers_, {.events = events}, 1).rate; });
  }

  void latencyAgainstFloor() {
    const std::chrono::seconds time(report_.quick() ? 3 : 20);
    const auto floor = publishToDelivery(servers_, 500, time);
    CommitToDelivery outbox(servers_, 500);
    const auto relay = outbox.measure(time);
    outbox.finish();
    report_.ratio("latency_vs_floor", relay.p50 / floor.p50,
                  Report::text("p50 %.2f ms against %.2f ms", relay.p50, floor.p50) +
                      Report::text(", p99 %.2f against %.2f ms", relay.p99, floor.p99));
  }

  void publishCostRatio() {
    const auto rates = publishCost(servers_, std::chrono::seconds(report_.quick() ? 4 : 40));
    report_.ratio("publish_cost", rates.ratio,
                  Report::text("%.0f tx/s against %.0f tx/s", rates.one, rates.other));
  }

  /// With the trigger of enable_notify(), against without.
  void notifyCostRatio(const std::string& name, Idle idle) {
    const auto rates = notifyCost(servers_, std::chrono::seconds(report_.quick() ? 4 : 40), idle);
    report_.ratio(name, rates.ratio,
                  Report::text("%.0f tx/s against %.0f tx/s", rates.one, rates.other));
  }

  /// One outbox and one relay throughout; the snapshot is one of the same database, where alone it
  /// keeps the dead versions of the cursor's rows, and it is still held when the second figure is
  /// taken.
  void heldSnapshot() {
    const std::chrono::seconds time(report_.quick() ? 3 : 20);
    CommitToDelivery outbox(servers_, 500);
    const auto cursorKib = [&] {
      return std::stod(servers_.postgres.query(outbox.database(),
                                               "select (pg_relation_size('pillion.lane') + "
                                               "pg_relation_size('pillion.relay')) / 1024.0"));
    };
    const auto without = outbox.measure(time);
    const double kibWithout = cursorKib();
    pqxx::connection holder(servers_.postgres.url(outbox.database()));
    pqxx::transaction<pqxx::isolation_level::repeatable_read> old{holder};
    old.exec("select count(*) from pillion.lane_position");
    outbox.measure(std::chrono::seconds(report_.quick() ? 5 : 120));
    const auto with = outbox.measure(time);
    old.exec("select 1");  // throws if it had been ended meanwhile
    report_.ratio(
        "held_snapshot", with.p99 / without.p99,
        Report::text("p99 %.2f ms held, %.2f ms without", with.p99, without.p99) +
            Report::text("; the cursor's rows %.0f KiB, %.0f without", cursorKib(), kibWithout));
    outbox.finish();
  }

  /// The queue grows as the backlog shrinks, which costs the broker something, too: how much, the
  /// bare client says. The small ones before and after the big ones, as a machine changes.
  void drainBigAgainstSmall() {
    const long small = report_.scaled(100'000);
    const long big = report_.scaled(5'000'000);
    std::vector<double> relaySmall;
    std::vector<double> bareSmall;
    const auto smallOnes = [&] {
      for (int round = 0; round < report_.rounds(3); ++round) {
        relaySmall.push_back(drain(servers_, {.events = small}, 1).rate);
        bareSmall.push_back(drainBare(servers_, small, kWindow).rate);
      }
    };
    smallOnes();
    const Drain relayBig = drain(servers_, {.events = big}, 1);
    const Bare bareBig = drainBare(servers_, big, kWindow);
    smallOnes();
    const double relay = Report::median(relaySmall);
    const double bare = Report::median(bareSmall);
    report_.ratio("drain_big_vs_small", (relayBig.rate / bareBig.rate) / (relay / bare),
                  Report::text("relay %.0f/s big, %.0f/s small; bare client %.0f/s and %.0f/s",
                               relayBig.rate, relay, bareBig.rate, bare));
    report_.value("relay_rss_mib", relayBig.peakRssMib);
  }

  void oneKey() {
    const long events = report_.scaled(20'000);
    report_.compare(
        "one_key", 3,
        [&] { return drain(servers_, {.events = events, .key = "'the only one'"}, 1).rate; },
        [&] { return drainBare(servers_, events, 1).rate; });
  }

  void hotKey() {
    const bool quick = report_.quick();
    const HotKey keys = coldBesideHot(servers_, report_.scaled(50'000), quick ? 1 : 5,
                                      std::chrono::seconds(quick ? 5 : 30));
    report_.ratio(
        "hot_key", keys.slowWith,
        Report::text("%.4f without; the hot ones took %.1f s", keys.slowWithout, keys.drained) +
            Report::text("; p50 %.2f ms with, %.2f without; p99 %.2f ms with, %.2f without",
                         keys.with.p50, keys.without.p50, keys.with.p99, keys.without.p99));
  }

  Report report_;
  BenchServers servers_;
};

}  // namespace

void runRelayBench(const BenchOptions& options) {
  RelayBench(options).run();
}

}  // namespace pillion::bench
