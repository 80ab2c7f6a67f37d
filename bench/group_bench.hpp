#pragma once

#include "bench_servers.hpp"
#include "report.hpp"

namespace pillion::bench {

/// Instances that share partitions: part of the consumer's benchmark.
void measureGroups(Report& report, BenchServers& servers);

}  // namespace pillion::bench
