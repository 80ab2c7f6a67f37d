#pragma once

#include "bench_servers.hpp"

namespace pillion::bench {

struct Drain {
  double rate = 0;        // events per second, from the first arrivals to the last event
  double peakRssMib = 0;  // of the relay that used most
};

/// Fills the outbox, starts so many relay processes and waits until all events are in the
/// queue.
Drain drain(BenchServers& servers, long events, int relays);

}  // namespace pillion::bench
