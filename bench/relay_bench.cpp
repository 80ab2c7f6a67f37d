#include "relay_bench.hpp"

#include "bare_publisher.hpp"
#include "drain.hpp"
#include "latency.hpp"
#include "publish_cost.hpp"

namespace pillion::bench {
namespace {

constexpr long kWindow = 1'000;
constexpr int kRounds = 5;

/// One run of all workloads.
class RelayBench {
 public:
  explicit RelayBench(const BenchOptions& options) : report_(options) {}

  void run() {
    report_.measure("drain_vs_broker", [&] { drainAgainstBroker(); });
    report_.measure("drain_two_relays_vs_one", [&] { drainWithTwoRelays(); });
    report_.measure("latency_vs_floor", [&] { latencyAgainstFloor(); });
    report_.measure("publish_cost", [&] { publishCostRatio(); });
    report_.measure("notify_cost", [&] { notifyCostRatio("notify_cost", Idle::Awake); });
    report_.measure("notify_cost_asleep",
                    [&] { notifyCostRatio("notify_cost_asleep", Idle::Asleep); });
    report_.measure("held_snapshot", [&] { heldSnapshot(); });
    report_.measure("drain_big_vs_small", [&] { drainBigAgainstSmall(); });
    report_.finish();
  }

 private:
  void drainAgainstBroker() {
    const long events = report_.scaled(300'000);
    report_.compare(
        "drain_vs_broker", kRounds, [&] { return drain(servers_, events, 1).rate; },
        [&] { return static_cast<double>(events) / bare(events); });
  }

  void drainWithTwoRelays() {
    const long events = report_.scaled(300'000);
    report_.compare(
        "drain_two_relays_vs_one", kRounds, [&] { return drain(servers_, events, 2).rate; },
        [&] { return drain(servers_, events, 1).rate; });
  }

  double bare(long events) {
    servers_.freshQueue();
    return publishBare("127.0.0.1", servers_.rabbit.port(), kExchange, events, kWindow);
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

  void drainBigAgainstSmall() {
    const long small = report_.scaled(100'000);
    const long big = report_.scaled(5'000'000);
    const Drain little = drain(servers_, small, 1);
    const Drain much = drain(servers_, big, 1);
    // The queue grows as the backlog shrinks, which costs the broker something, too: how much, it
    // says without a relay.
    const double brokerLittle = static_cast<double>(small) / bare(small);
    const double brokerMuch = static_cast<double>(big) / bare(big);
    report_.ratio(
        "drain_big_vs_small", much.rate / little.rate,
        Report::text("%.0f/s against %.0f/s", much.rate, little.rate) +
            Report::text("; the broker alone %.0f/s against %.0f/s", brokerMuch, brokerLittle));
    report_.value("relay_rss_mib", much.peakRssMib);
  }

  Report report_;
  BenchServers servers_;
};

}  // namespace

void runRelayBench(const BenchOptions& options) {
  RelayBench(options).run();
}

}  // namespace pillion::bench
