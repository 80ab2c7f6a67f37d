#pragma once

#include <string>

#include "report.hpp"

namespace pillion::bench {

void runConsumerBench(const BenchOptions& options);

/// Consumes so many events and prints the peak of the memory used, in KiB. A process of its own, so
/// that nothing else is counted.
void consumeInChild(long events);

}  // namespace pillion::bench
