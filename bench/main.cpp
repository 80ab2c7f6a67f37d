// Speed as ratios against limits that are measured in the same run, on the same private servers.
//
//   pillion-bench relay|consumer [--json] [--quick] [--only NAME …]
//
// relay:
// drain_vs_broker: draining 300,000 events / bare rabbitmq-c publishing the same bytes with the
//   same window; medians of five runs each, in turns
// drain_two_relays_vs_one: the same drain by two relay processes / by one
// latency_vs_floor: p50 commit to delivery at 500 events/s / p50 bare publish to delivery
// publish_cost: transactions with publish(tx) / with a hand-written INSERT, 8 clients; median of
//   pairs of slices
// notify_cost: transactions with publish(tx) and the trigger of enable_notify(), while no relay
//   sleeps / without the trigger; as above
// notify_cost_asleep: the same while a relay sleeps and is not woken, so that each one notifies
// held_snapshot: p99 latency with another session's snapshot of the same database held for 2
//   minutes, and held still / before it was taken; one outbox, one relay
// drain_big_vs_small: rate per event with 5,000,000 waiting / with 100,000; also relay_rss_mib

// consumer, events of 512 bytes, a handler with one UPDATE:
// consume_vs_database: events applied / the same inbox inserts and updates by libpqxx alone, in
//   batches of the same size; medians of five runs each, in turns
// batch_gain: default settings / one transaction per event
// duplicates_vs_broker: duplicates absorbed / bare rabbitmq-c consuming and acking
// single_latency: p50 of one event at a time, published to committed / the same without batches
// consumer_rss_mib: peak memory with 500,000 in the queue

#include <CLI/CLI.hpp>
#include <cstdio>

#include "consumer_bench.hpp"
#include "relay_bench.hpp"

int main(int argc, char** argv) {
  CLI::App app{"Pillion's benchmarks"};
  app.require_subcommand(1);
  pillion::bench::BenchOptions options;
  long childEvents = 0;
  auto* relay = app.add_subcommand("relay", "The relay and the publisher");
  auto* consumer = app.add_subcommand("consumer", "The consumer");
  for (auto* command : {relay, consumer}) {
    command->add_flag("--json", options.json, "End with one line of ratios");
    command->add_flag("--quick", options.quick, "A tenth of everything");
    command->add_option("--only", options.only, "Only these");
  }
  auto* child = app.add_subcommand("consumer-child", "For the consumer's benchmark itself");
  child->add_option("events", childEvents)->required();
  CLI11_PARSE(app, argc, argv);
  try {
    if (*relay) pillion::bench::runRelayBench(options);
    if (*consumer) pillion::bench::runConsumerBench(options);
    if (*child) pillion::bench::consumeInChild(childEvents);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "pillion-bench: %s\n", error.what());
    return 1;
  }
}
