#include "sick_bench.hpp"

#include <vector>

#include "sick_backlog.hpp"
#include "sick_neighbour.hpp"

namespace pillion::bench {
namespace {

class SickBench {
 public:
  SickBench(Report& report, BenchServers& servers) : report_(report), servers_(servers) {}

  void run() {
    report_.measure({"sick_neighbour", "sick_neighbour_whole", "sick_neighbour_no_majority",
                     "sick_neighbour_no_majority_whole"},
                    [&] { neighbours(); });
    report_.measure({"sick_copies"}, [&] { copies(); });
    report_.measure({"sick_backlog", "sick_backlog_others", "sick_backlog_nacked",
                     "sick_backlog_nacked_others"},
                    [&] { backlogs(); });
    report_.measure({"relay_rss_sick_mib"}, [&] {
      report_.value("relay_rss_sick_mib",
                    rssWithSick(servers_, 1'000, report_.scaled(20'000), limit()));
    });
  }

 private:
  [[nodiscard]] std::chrono::seconds limit() const {
    return std::chrono::minutes(report_.quick() ? 1 : 15);
  }

  void neighbours() {
    std::vector<NeighbourRates> without;
    std::vector<NeighbourRates> full;
    std::vector<NeighbourRates> hung;
    for (int round = 0; round < report_.rounds(3); ++round) {
      without.push_back(beside(Sickness::None));
      full.push_back(beside(Sickness::Full));
      hung.push_back(beside(Sickness::NoMajority));
    }
    say("sick_neighbour", full, without);
    say("sick_neighbour_no_majority", hung, without);
  }

  NeighbourRates beside(Sickness sickness) {
    return drainBesideSick(servers_, report_.scaled(300'000), sickness, limit());
  }

  void say(const std::string& name, const std::vector<NeighbourRates>& sick,
           const std::vector<NeighbourRates>& healthy) {
    const auto medianOf = [](const auto& rates, double NeighbourRates::*which) {
      std::vector<double> values;
      for (const auto& one : rates) values.push_back(one.*which);
      return Report::median(values);
    };
    const double without = medianOf(healthy, &NeighbourRates::whole);
    const double whole = medianOf(sick, &NeighbourRates::whole);
    const double recognised = medianOf(sick, &NeighbourRates::recognised);
    report_.ratio(name, recognised / without,
                  Report::text("from the first warning, after %.1f s; %.0f/s against %.0f/s; ",
                               medianOf(sick, &NeighbourRates::warnedAfter), recognised, without) +
                      Report::text("%.0f %% of the healthy events arrived in the time",
                                   100 * medianOf(sick, &NeighbourRates::share)));
    report_.ratio(name + "_whole", whole / without,
                  Report::text("as a whole; %.0f/s against %.0f/s", whole, without));
  }

  void copies() {
    const Copies copies = copiesBesideFull(servers_, report_.scaled(20'000),
                                           std::chrono::seconds(report_.quick() ? 10 : 60));
    report_.ratio(
        "sick_copies", copies.perEvent(),
        Report::text("%.0f messages of %.0f events; the most copied one has %.0f",
                     static_cast<double>(copies.messages), static_cast<double>(copies.events),
                     static_cast<double>(copies.ofMostCopied)));
  }

  /// The healthy one before and after the others, as a machine changes.
  void backlogs() {
    const long events = report_.scaled(1'000'000);
    const auto before = drainSickBacklog(servers_, events, Sickness::None, limit());
    const auto unroutable = drainSickBacklog(servers_, events, Sickness::Unroutable, limit());
    const auto nacked = drainSickBacklog(servers_, events, Sickness::Full, limit());
    const auto after = drainSickBacklog(servers_, events, Sickness::None, limit());
    const double healthy = (before.rate + after.rate) / 2;
    say("sick_backlog", unroutable, healthy);
    say("sick_backlog_nacked", nacked, healthy);
  }

  void say(const std::string& name, const BacklogDrain& sick, double healthy) {
    report_.ratio(name, sick.rate / healthy,
                  Report::text("%.0f/s against %.0f/s, beginning %.1f s after the relief",
                               sick.rate, healthy, sick.wait) +
                      Report::text("; %.0f %% drained in the time", 100 * sick.share));
    report_.ratio(name + "_others", sick.arrived / sick.written,
                  Report::text("healthy ones meanwhile: %.0f/s arrived of %.0f/s written",
                               sick.arrived, sick.written) +
                      Report::text(", p50 %.2f ms, p99 %.2f ms", sick.others.p50, sick.others.p99));
  }

  Report& report_;
  BenchServers& servers_;
};

}  // namespace

void measureSick(Report& report, BenchServers& servers) {
  SickBench(report, servers).run();
}

}  // namespace pillion::bench
