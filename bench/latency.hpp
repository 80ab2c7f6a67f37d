#pragma once

#include "bench_servers.hpp"

namespace pillion::bench {

struct Percentiles {
  double p50 = 0;  // milliseconds
  double p99 = 0;
};

/// From just before COMMIT to the delivery at a consumer, at a steady rate through a relay process.
Percentiles commitToDelivery(BenchServers& servers, int perSecond, std::chrono::seconds time);

/// The floor: from a bare publish to its delivery on the same broker, at the same rate.
Percentiles publishToDelivery(BenchServers& servers, int perSecond, std::chrono::seconds time);

}  // namespace pillion::bench
