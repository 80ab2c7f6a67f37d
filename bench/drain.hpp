#pragma once

#include "backlog.hpp"

namespace pillion::bench {

/// CPU in microseconds per event, by the kernel's count of each process.
struct Cpu {
  double relay = 0;     // all relays together
  double postgres = 0;  // all of its processes
  double broker = 0;
};

struct Drain {
  double rate = 0;        // events per second, from the first arrivals to the last event
  double peakRssMib = 0;  // of the relay that used most
  Cpu cpu;                // over the same time
};

/// Fills the outbox, starts so many relay processes and waits until all events are in the
/// queue.
Drain drain(BenchServers& servers, const Backlog& backlog, int relays);

/// The bare client with the window that a relay has, into a new queue.
struct Bare {
  double rate = 0;
  double cpu = 0;  // of the client, in microseconds per event
};
Bare drainBare(BenchServers& servers, long events, long window);

}  // namespace pillion::bench
