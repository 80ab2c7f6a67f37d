#pragma once

#include <chrono>

#include "bench_servers.hpp"

namespace pillion::bench {

/// Two ways in turns, slice by slice, so that a busy machine hits both. Transactions per second,
/// eight clients each.
struct PairedRates {
  double one = 0;
  double other = 0;
  double ratio = 0;  // median over pairs of slices that follow each other
};

/// One: a business update and publish(tx, event). Other: the update and a one-row INSERT of the
/// same bytes, no indexes.
PairedRates publishCost(BenchServers& servers, std::chrono::seconds time);

/// Does a relay sleep? When it is asleep here, it stays so, and every transaction notifies: the
/// most it can cost. (A real one wakes up at the first, and the others of its waking time pay no
/// more than with one that is awake.)
enum class Idle { Awake, Asleep };

/// Business update and publish(tx, event), both times. One: with the trigger of enable_notify().
/// Other: without.
PairedRates notifyCost(BenchServers& servers, std::chrono::seconds time, Idle idle);

}  // namespace pillion::bench
