#include "relay_bench.hpp"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

#include "bare_publisher.hpp"
#include "drain.hpp"
#include "latency.hpp"
#include "publish_cost.hpp"

namespace pillion::bench {
namespace {

constexpr long kWindow = 1'000;

/// One run of all workloads. Ratios are the result; absolute figures are printed beside them since
/// they say what the machine was.
class RelayBench {
 public:
  explicit RelayBench(const RelayBenchOptions& options) : options_(options) {}

  void run() {
    measure("drain_vs_broker", [&] { drainAgainstBroker(); });
    measure("drain_two_relays_vs_one", [&] { drainWithTwoRelays(); });
    measure("latency_vs_floor", [&] { latencyAgainstFloor(); });
    measure("publish_cost", [&] { publishCostRatio(); });
    measure("held_snapshot", [&] { heldSnapshot(); });
    measure("drain_big_vs_small", [&] { drainBigAgainstSmall(); });
    if (options_.json) std::printf("%s\n", results_.dump().c_str());
  }

 private:
  template <typename Work>
  void measure(const std::string& name, const Work& work) {
    const auto& only = options_.only;
    if (!only.empty() && std::ranges::find(only, name) == only.end()) return;
    std::fprintf(stderr, "%s …\n", name.c_str());
    work();
  }

  [[nodiscard]] long scaled(long full) const { return options_.quick ? full / 10 : full; }

  void report(const std::string& name, double ratio, const std::string& figures) {
    results_[name] = ratio;
    std::fprintf(stderr, "  %s = %.3f   (%s)\n", name.c_str(), ratio, figures.c_str());
  }

  static std::string text(const char* format, double a, double b) {
    char line[160];
    std::snprintf(line, sizeof line, format, a, b);
    return line;
  }

  /// Both sides in turns, so that a machine that gets slower meanwhile slows both; the medians say
  /// what one run, which may be off by a fifth, does not.
  template <typename One, typename Other>
  void compare(const std::string& name, const One& one, const Other& other) {
    std::vector<double> ones;
    std::vector<double> others;
    for (int round = 0; round < (options_.quick ? 2 : 5); ++round) {
      others.push_back(other());
      ones.push_back(one());
    }
    report(name, median(ones) / median(others),
           text("median %.0f/s against %.0f/s", median(ones), median(others)) + spread(ones) +
               " against" + spread(others));
  }

  static double median(std::vector<double> values) {
    std::ranges::sort(values);
    return (values[(values.size() - 1) / 2] + values[values.size() / 2]) / 2;
  }

  static std::string spread(const std::vector<double>& values) {
    const auto [least, most] = std::ranges::minmax(values);
    return text(", %.0f to %.0f", least, most);
  }

  void drainAgainstBroker() {
    const long events = scaled(300'000);
    compare(
        "drain_vs_broker", [&] { return drain(servers_, events, 1).rate; },
        [&] { return static_cast<double>(events) / bare(events); });
  }

  void drainWithTwoRelays() {
    const long events = scaled(300'000);
    compare(
        "drain_two_relays_vs_one", [&] { return drain(servers_, events, 2).rate; },
        [&] { return drain(servers_, events, 1).rate; });
  }

  double bare(long events) {
    servers_.freshQueue();
    return publishBare("127.0.0.1", servers_.rabbit.port(), kExchange, events, kWindow);
  }

  void latencyAgainstFloor() {
    const std::chrono::seconds time(options_.quick ? 3 : 20);
    const auto floor = publishToDelivery(servers_, 500, time);
    const auto relay = commitToDelivery(servers_, 500, time);
    report("latency_vs_floor", relay.p50 / floor.p50,
           text("p50 %.2f ms against %.2f ms", relay.p50, floor.p50) +
               text(", p99 %.2f against %.2f ms", relay.p99, floor.p99));
  }

  void publishCostRatio() {
    const auto rates = publishCost(servers_, std::chrono::seconds(options_.quick ? 4 : 40));
    report("publish_cost", rates.ratio,
           text("%.0f tx/s against %.0f tx/s", rates.withPublish, rates.byHand));
  }

  /// Another session's snapshot is held, and the same latency is measured at its end.
  void heldSnapshot() {
    const std::chrono::seconds time(options_.quick ? 3 : 20);
    const auto without = commitToDelivery(servers_, 500, time);
    pqxx::connection holder(servers_.postgres.url());
    pqxx::transaction<pqxx::isolation_level::repeatable_read> old{holder};
    old.exec("select pg_current_snapshot()");
    commitToDelivery(servers_, 500, std::chrono::seconds(options_.quick ? 5 : 120));
    const auto with = commitToDelivery(servers_, 500, time);
    report("held_snapshot", with.p99 / without.p99,
           text("p99 %.2f ms held, %.2f ms without", with.p99, without.p99));
  }

  void drainBigAgainstSmall() {
    const long small = scaled(100'000);
    const long big = scaled(5'000'000);
    const Drain little = drain(servers_, small, 1);
    const Drain much = drain(servers_, big, 1);
    report("drain_big_vs_small", much.rate / little.rate,
           text("%.0f/s against %.0f/s", much.rate, little.rate));
    results_["relay_rss_mib"] = much.peakRssMib;
    std::fprintf(stderr, "  relay_rss_mib = %.1f\n", much.peakRssMib);
  }

  RelayBenchOptions options_;
  BenchServers servers_;
  nlohmann::json results_ = nlohmann::json::object();
};

}  // namespace

void runRelayBench(const RelayBenchOptions& options) {
  RelayBench(options).run();
}

}  // namespace pillion::bench
