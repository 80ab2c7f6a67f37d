#pragma once

#include "steady_load.hpp"

namespace pillion::bench {

/// Events of cold keys, each with one, at a steady rate: alone, and while events of one key drain.
struct HotKey {
  Percentiles without;
  Percentiles with;
  double slowWithout = 0;  // share that took more than five times the median without the hot key
  double slowWith = 0;
  double drained = 0;  // seconds that the hot events took
};

HotKey coldBesideHot(BenchServers& servers, long hotEvents, int bursts, std::chrono::seconds alone);

}  // namespace pillion::bench
