#pragma once

#include "bench_servers.hpp"

namespace pillion::bench {

/// Committed events of 512 bytes. Type and key are SQL expressions of `g`, the event's number.
struct Backlog {
  long events = 0;
  std::string type = "'bench.created'";
  std::string key = "'key-' || (g % 10000)";
  bool checkpoint = true;  // afterwards, so that none comes while they drain
};

/// Writes them as the publishers do, by SQL alone, in several transactions.
void fillOutbox(const BenchServers& servers, const std::string& database, const Backlog& backlog);

}  // namespace pillion::bench
