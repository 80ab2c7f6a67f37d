// Speed as ratios against limits that are measured in the same run, on the same private servers.
//
//   pillion-bench relay|consumer [--json] [--quick] [--only NAME …]
//
// relay, events of 512 bytes:
// drain_vs_broker: draining 300,000 events / bare rabbitmq-c publishing the same bytes with the
//   same window; medians of five runs each, in turns
// cpu_us_per_event: CPU of relay and PostgreSQL in these drains, beside that of the bare client
// and,
//   for information, the broker's; by the kernel's count of each process
// drain_two_relays_vs_one: the same drain by two relay processes / by one
// drain_big_vs_small: with 5,000,000 waiting / with 100,000, both against the bare client filling a
//   queue of that size; and relay_rss_mib, peak memory with 5,000,000 waiting
// one_key: events of one single key / the bare client with one message in flight
// hot_key: cold keys' events that wait more than five times the median without a hot key, while
//   50,000 events of one key drain / all of them; 1/64 share their lane with it
// latency_vs_floor: p50 commit to delivery at 500 events/s / p50 bare publish to delivery
// publish_cost: transactions with publish(tx) / with a hand-written INSERT, 8 clients; median of
//   pairs of slices
// notify_cost: transactions with publish(tx) and the trigger of enable_notify(), while no relay
//   sleeps / without the trigger; as above
// notify_cost_asleep: the same while a relay sleeps and is not woken, so that each one notifies
// held_snapshot: p99 latency with another session's snapshot of the same database held for 2
//   minutes, and held still / before it was taken; one outbox, one relay
//
// While some events cannot go:
// sick_neighbour: events of nine healthy types out of 300,000 of ten, while the tenth's queue is
//   full and rejects / while it takes them; from the relay's first warning on, and
//   sick_neighbour_whole from the relay's start on; medians of three
// sick_neighbour_no_majority(_whole): the same, when the tenth's queue neither takes nor refuses
// sick_copies: messages in a healthy queue per event that its full neighbour refused for a minute,
//   the probed one aside
// sick_backlog: draining 1,000,000 events of a type that had no queue while they were written, an
//   old snapshot held all the time / events that always had one; sick_backlog_nacked: whose queue
//   was full; (…)_others: of events of another type, 500/s, arrived / written meanwhile
// relay_rss_sick_mib: peak memory with 1,000 unroutable types and 20,000 keys held by them

// consumer, events of 512 bytes, a handler with one UPDATE:
// consume_vs_database: events applied / the same inbox inserts and updates by libpqxx alone, in
//   batches of the same size; medians of five runs each, in turns
// single_rate: with a transaction per event / a loop by hand over rabbitmq-c and libpqxx that does
//   the same: claim, update, commit, ack; medians of five; at least 0.85
// batch_gain: default settings / one transaction per event; at least 4
// duplicates_vs_broker: duplicates absorbed / bare rabbitmq-c consuming and acking; at least 0.6
// single_latency: p50 of one event at a time, published to committed / the same without batches
// group_of_two: two instances with eight partitions, four workers each, a handler that waits for
//   2 ms / one such instance; events applied, from fair shares on; medians of three; at least 1.8
// rebalance_s: for how long that partition of eight stands still which waits longest, at 400
//   events/s, when an instance is added to two, and when one of three is stopped, or killed (which
//   costs its lease); medians of ten rounds; added and stopped at most 2
// consumer_rss_mib: peak memory with 500 events of 8 MiB in the queue, at most 96; and
//   consumer_rss_small_mib with 500,000 of 512 bytes, consumer_rss_idle_mib with a single one

#include <CLI/CLI.hpp>
#include <cstdio>

#include "consumer_bench.hpp"
#include "consumer_child.hpp"
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
  std::string service;
  auto* member = app.add_subcommand("group-child", "The same");
  member->add_option("service", service)->required();
  CLI11_PARSE(app, argc, argv);
  try {
    if (*relay) pillion::bench::runRelayBench(options);
    if (*consumer) pillion::bench::runConsumerBench(options);
    if (*child) pillion::bench::consumeInChild(childEvents);
    if (*member) pillion::bench::consumeInGroup(service);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "pillion-bench: %s\n", error.what());
    return 1;
  }
}
