#include "drain.hpp"

#include <algorithm>
#include <fstream>
#include <stdexcept>
#include <vector>

#include "bare_publisher.hpp"
#include "support/eventually.hpp"

namespace pillion::bench {
namespace {

double peakRssMib(pid_t pid) {
  std::ifstream status("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) return std::stod(line.substr(6)) / 1024.0;
  }
  return 0;
}

}  // namespace

Drain drain(BenchServers& servers, long events, int relays) {
  const std::string database = servers.createDatabase();
  servers.freshQueue();
  fillOutbox(servers, database, events);
  const QueueDepth depth("127.0.0.1", servers.rabbit.port(), servers.queue);
  std::vector<support::Process> processes;
  for (int i = 0; i < relays; ++i) {
    processes.push_back(servers.startRelay(database, "relay-" + std::to_string(i)));
  }
  // From the first arrivals on: starting a process and logging in is not what is measured, here as
  // little as for the bare loop.
  long first = 0;
  support::eventually(std::chrono::minutes(1), [&] { return (first = depth.now()) > 0; });
  const auto start = Steady::now();
  const bool done =
      support::eventually(std::chrono::minutes(15), [&] { return depth.now() >= events; });
  Drain result;
  result.rate = static_cast<double>(events - first) / secondsSince(start);
  if (!done) throw std::runtime_error("the backlog was not drained in a quarter of an hour");
  for (auto& process : processes) {
    result.peakRssMib = std::max(result.peakRssMib, peakRssMib(process.pid()));
    if (process.terminate(std::chrono::seconds(20)) != 0) {
      throw std::runtime_error("a relay did not end well: " + process.output());
    }
  }
  return result;
}

}  // namespace pillion::bench
