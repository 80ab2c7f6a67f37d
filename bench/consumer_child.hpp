#pragma once

#include <pillion/consumer.hpp>
#include <string>

#include "bench_servers.hpp"

namespace pillion::bench {

inline constexpr const char* kService = "bench-service";
inline constexpr const char* kUpdate = "update account set balance = balance + 1 where id = $1";
inline constexpr int kPartitions = 8;

/// Kept while a measurement's processes come and go, which write what they have applied into it.
inline constexpr const char* kJournal =
    "create table journal (partition int not null,"
    " at timestamptz not null default clock_timestamp())";

/// Events per second between the first hundredth and the last.
double untilApplied(const EventConsumer& consumer, long events);

// Processes of their own, so that nothing else is counted or ends with them: what main() runs for
// the commands that `childOptions` makes.

support::ProcessOptions childOptions(const BenchServers& servers, const std::string& database,
                                     const std::string& exchange,
                                     const std::vector<std::string>& arguments);
/// Consumes so many events and prints the peak of the memory used, in MiB.
void consumeInChild(long events);
/// Consumes partitions and writes the journal until SIGTERM.
void consumeInGroup(const std::string& service);

}  // namespace pillion::bench
