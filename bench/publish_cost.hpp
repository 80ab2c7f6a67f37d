#pragma once

#include <chrono>

#include "bench_servers.hpp"

namespace pillion::bench {

struct PublishRates {
  double withPublish = 0;  // transactions per second: business update + publish(tx, event)
  double byHand = 0;       // business update + a one-row INSERT of the same bytes, no indexes
  double ratio = 0;        // median over pairs of slices that follow each other
};

/// Eight clients each, the two ways in turns so that a busy machine hits both.
PublishRates publishCost(BenchServers& servers, std::chrono::seconds time);

}  // namespace pillion::bench
