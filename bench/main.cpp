// Speed as ratios against limits that are measured in the same run, on the same private servers.
//
//   pillion-bench relay [--json] [--quick] [--only NAME …]
//
// drain_vs_broker: draining 300,000 events / bare rabbitmq-c publishing the same bytes with the
//   same window; medians of five runs each, in turns
// drain_two_relays_vs_one: the same drain by two relay processes / by one
// latency_vs_floor: p50 commit to delivery at 500 events/s / p50 bare publish to delivery
// publish_cost: transactions with publish(tx) / with a hand-written INSERT, 8 clients; median of
//   pairs of slices
// held_snapshot: p99 latency after 2 minutes of another session's old snapshot / without
// drain_big_vs_small: rate per event with 5,000,000 waiting / with 100,000; also relay_rss_mib

#include <CLI/CLI.hpp>
#include <cstdio>

#include "relay_bench.hpp"

int main(int argc, char** argv) {
  CLI::App app{"Pillion's benchmarks"};
  app.require_subcommand(1);
  pillion::bench::RelayBenchOptions options;
  auto* relay = app.add_subcommand("relay", "The relay and the publisher");
  relay->add_flag("--json", options.json, "End with one line of ratios");
  relay->add_flag("--quick", options.quick, "A tenth of everything");
  relay->add_option("--only", options.only, "Only these");
  CLI11_PARSE(app, argc, argv);
  try {
    pillion::bench::runRelayBench(options);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "pillion-bench: %s\n", error.what());
    return 1;
  }
}
