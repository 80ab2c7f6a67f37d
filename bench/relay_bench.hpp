#pragma once

#include <string>
#include <vector>

namespace pillion::bench {

struct RelayBenchOptions {
  bool json = false;
  bool quick = false;  // a tenth of everything: shows that it runs, not how fast
  std::vector<std::string> only;
};

void runRelayBench(const RelayBenchOptions& options);

}  // namespace pillion::bench
