#pragma once

#include "bench_servers.hpp"

namespace pillion::bench {

struct Drain {
  double seconds = 0;     // from the start of the relay processes to the last event in the queue
  double peakRssMib = 0;  // of the relay that used most
};

/// Fills the outbox, starts so many relay processes and waits until all events are in the queue and
/// the cursor is past them.
Drain drain(BenchServers& servers, long events, int relays);

}  // namespace pillion::bench
