#pragma once

#include "sick_neighbour.hpp"
#include "steady_load.hpp"

namespace pillion::bench {

/// Events of one type that could not go when they were written, and go later; another session holds
/// an old snapshot of the database from before the first of them. Events of another type are
/// written at a steady rate all the time.
struct BacklogDrain {
  double rate = 0;     // per second, from the first arrivals after the relief on
  double share = 0;    // of the backlog, that had arrived at the end of the time
  double wait = 0;     // seconds from the relief to the first arrivals
  double written = 0;  // of the others: written per second
  double arrived = 0;  // of the others: arrived per second, while there was something to write
  Percentiles others;  // their latency
};

/// Without a sickness the relay starts when all is written, and there is no old snapshot.
BacklogDrain drainSickBacklog(BenchServers& servers, long events, Sickness sickness,
                              std::chrono::seconds limit);

/// Peak memory in MiB of a relay that has passed over so many unroutable events, each of a key of
/// its own that waits behind it, of so many types.
double rssWithSick(BenchServers& servers, long types, long keys, std::chrono::seconds limit);

}  // namespace pillion::bench
