#pragma once

#include "report.hpp"

namespace pillion::bench {

void runConsumerBench(const BenchOptions& options);

}  // namespace pillion::bench
