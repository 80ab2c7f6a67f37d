#include "sick_backlog.hpp"

#include <algorithm>
#include <pqxx/pqxx>
#include <stdexcept>
#include <thread>

#include "backlog.hpp"
#include "process_time.hpp"
#include "stage.hpp"
#include "support/eventually.hpp"

namespace pillion::bench {
namespace {

constexpr const char* kSick = "bench.sick";
constexpr const char* kOther = "bench.other";
constexpr int kOthersPerSecond = 500;

/// Another session's transaction that sees the database as it is now.
class OldSnapshot {
 public:
  explicit OldSnapshot(const Stage& stage)
      : connection_(stage.servers().postgres.url(stage.database())), transaction_(connection_) {
    transaction_.exec("select count(*) from pillion.outbox");
  }
  /// Throws when it was ended meanwhile.
  void check() { transaction_.exec("select 1"); }

 private:
  pqxx::connection connection_;
  pqxx::transaction<pqxx::isolation_level::repeatable_read> transaction_;
};

/// Rates and latencies of the other events between the construction and `end`.
class OthersBeside {
 public:
  explicit OthersBeside(SteadyLoad& load)
      : load_(load), written_(load.written()), arrived_(load.arrived()) {}

  void end(BacklogDrain& result) {
    const double seconds = secondsSince(start_);
    const std::size_t to = load_.written();
    result.written = static_cast<double>(to - written_) / seconds;
    result.arrived = static_cast<double>(load_.arrived() - arrived_) / seconds;
    load_.finish(std::chrono::minutes(2));
    result.others = percentilesOf(load_.latencies(written_, to));
  }

 private:
  SteadyLoad& load_;
  std::size_t written_;
  std::size_t arrived_;
  Steady::time_point start_ = Steady::now();
};

/// Returns the queue that the sick events go to from now on.
std::string relieve(Stage& stage, const std::string& full) {
  if (!full.empty()) stage.removeQueue(full);
  return stage.addQueue(kSick);
}

void awaitBacklog(const QueueDepth& depth, long events, std::chrono::seconds limit,
                  BacklogDrain& result) {
  const auto relieved = Steady::now();
  long first = 0;
  support::eventually(limit, [&] { return (first = depth.now()) > 0; });
  result.wait = secondsSince(relieved);
  const auto start = Steady::now();
  long arrived = first;
  support::eventually(limit, [&] { return (arrived = depth.now()) >= events; });
  result.rate = static_cast<double>(arrived - first) / secondsSince(start);
  result.share = static_cast<double>(arrived) / static_cast<double>(events);
}

}  // namespace

BacklogDrain drainSickBacklog(BenchServers& servers, long events, Sickness sickness,
                              std::chrono::seconds limit) {
  constexpr long kTakenByFull = 5;
  Stage stage(servers);
  const std::string others = stage.addQueue(kOther);
  const std::string full =
      sickness == Sickness::Full ? stage.addQueue(kSick, QueueKind::Full) : std::string();
  std::optional<support::Process> relay;
  std::optional<OldSnapshot> snapshot;
  if (sickness != Sickness::None) {
    snapshot.emplace(stage);
    relay = stage.startRelay();
  }
  SteadyLoad load(stage, others, kOther, kOthersPerSecond,
                  [](std::size_t number) { return "other-" + std::to_string(number % 1'000); });
  const auto ready = [&] { return load.arrived() > 0 || sickness == Sickness::None; };
  if (!support::eventually(std::chrono::minutes(1), ready)) {
    throw std::runtime_error("the relay did not begin: " + relay->output());
  }
  OthersBeside beside(load);
  fillOutbox(servers, stage.database(), {.events = events, .type = std::string("'bench.sick'")});
  if (sickness != Sickness::None) std::this_thread::sleep_for(std::chrono::seconds(10));
  const auto depth = stage.depthOf(relieve(stage, full));
  if (!relay) relay = stage.startRelay();
  BacklogDrain result;
  awaitBacklog(*depth, full.empty() ? events : events - kTakenByFull, limit, result);
  beside.end(result);
  if (snapshot) snapshot->check();
  endRelay(*relay);
  return result;
}

double rssWithSick(BenchServers& servers, long types, long keys, std::chrono::seconds limit) {
  Stage stage(servers);
  const auto depth = stage.depthOf(stage.addQueue("bench.created"));
  // Two events a key: one that cannot go, and one that waits for it.
  fillOutbox(servers, stage.database(),
             {.events = 2 * keys,
              .type = "'bench.sick-' || (g % " + std::to_string(types) + ")",
              .key = "'held-' || (g % " + std::to_string(keys) + ")"});
  const long healthy = 2 * keys;
  fillOutbox(servers, stage.database(), {.events = healthy});
  auto relay = stage.startRelay({"--hold", "#"});
  const bool done = support::eventually(limit, [&] { return depth->now() >= healthy; });
  const double peak = peakRssMib(relay.pid());
  if (!done) {
    std::fprintf(stderr, "  %ld of %ld healthy events passed the sick ones in the time\n",
                 depth->now(), healthy);
  }
  endRelay(relay);
  return peak;
}

}  // namespace pillion::bench
