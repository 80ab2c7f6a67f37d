#pragma once

#include "report.hpp"

namespace pillion::bench {

void runRelayBench(const BenchOptions& options);

}  // namespace pillion::bench
