#include "hot_key.hpp"

#include <algorithm>
#include <cstdio>
#include <thread>

#include "backlog.hpp"
#include "support/eventually.hpp"

namespace pillion::bench {
namespace {

constexpr int kColdPerSecond = 200;
constexpr std::chrono::seconds kWarmUp{2};
constexpr std::chrono::minutes kLimit{5};

double shareAbove(const std::vector<double>& values, double limit) {
  if (values.empty()) return 0;
  const auto above = std::ranges::count_if(values, [&](double value) { return value > limit; });
  return static_cast<double>(above) / static_cast<double>(values.size());
}

}  // namespace

HotKey coldBesideHot(BenchServers& servers, long hotEvents, int bursts,
                     std::chrono::seconds alone) {
  Stage stage(servers);
  const auto hot = stage.depthOf(stage.addQueue("bench.hot"));
  auto relay = stage.startRelay();
  SteadyLoad load(stage, stage.addQueue("bench.cold"), "bench.cold", kColdPerSecond,
                  [](std::size_t number) { return "cold-" + std::to_string(number); });
  std::this_thread::sleep_for(kWarmUp);
  const std::size_t begin = load.written();
  std::this_thread::sleep_for(alone);
  const std::size_t end = load.written();

  HotKey result;
  std::vector<std::pair<std::size_t, std::size_t>> beside;
  for (int burst = 1; burst <= bursts; ++burst) {
    servers.postgres.execute(stage.database(), "checkpoint");
    const long before = hot->now();
    fillOutbox(
        servers, stage.database(),
        {.events = hotEvents, .type = "'bench.hot'", .key = "'the hot one'", .checkpoint = false});
    const auto start = Steady::now();
    const std::size_t from = load.written();
    const bool done = support::eventually(kLimit, [&] { return hot->now() >= before + hotEvents; });
    if (!done) std::fprintf(stderr, "  the hot events did not drain within five minutes\n");
    result.drained += secondsSince(start);
    beside.emplace_back(from, load.written());
    std::this_thread::sleep_for(kWarmUp);
  }
  load.finish(std::chrono::minutes(1));

  const auto without = load.latencies(begin, end);
  std::vector<double> with;
  for (const auto& [from, to] : beside) {
    const auto some = load.latencies(from, to);
    with.insert(with.end(), some.begin(), some.end());
  }
  result.without = percentilesOf(without);
  result.with = percentilesOf(with);
  result.slowWithout = shareAbove(without, 5 * result.without.p50);
  result.slowWith = shareAbove(with, 5 * result.without.p50);
  endRelay(relay);
  return result;
}

}  // namespace pillion::bench
