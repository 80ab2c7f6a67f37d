#pragma once

#include "bench_servers.hpp"
#include "report.hpp"

namespace pillion::bench {

/// What healthy events cost and suffer while others cannot go: part of the relay's benchmark.
void measureSick(Report& report, BenchServers& servers);

}  // namespace pillion::bench
