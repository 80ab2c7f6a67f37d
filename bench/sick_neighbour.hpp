#pragma once

#include "bench_servers.hpp"

namespace pillion::bench {

enum class Sickness {
  None,
  Full,        // the queue refuses
  NoMajority,  // the queue neither takes nor refuses
  Unroutable,  // there is no queue
};

/// Events per second that arrive in nine queues, one a type, while the tenth type's is sick.
struct NeighbourRates {
  double whole = 0;        // from the relay's start on
  double recognised = 0;   // from the relay's first warning on; as `whole` when there is none
  double warnedAfter = 0;  // seconds; 0 when there was no warning
  double share = 0;        // of the healthy events, that had arrived at the end of the time
};
NeighbourRates drainBesideSick(BenchServers& servers, long events, Sickness sickness,
                               std::chrono::seconds limit);

/// One type goes to a full queue and to a healthy one. What is in the healthy one after a time.
struct Copies {
  long events = 0;
  long messages = 0;
  long ofMostCopied = 0;  // messages of the one event that was probed
  /// Messages per event, the probed one aside.
  [[nodiscard]] double perEvent() const;
};
Copies copiesBesideFull(BenchServers& servers, long events, std::chrono::seconds time);

}  // namespace pillion::bench
