#include "drain.hpp"

#include <unistd.h>

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "bare_publisher.hpp"
#include "process_time.hpp"
#include "support/eventually.hpp"

namespace pillion::bench {
namespace {

Cpu cpuOf(const BenchServers& servers, const std::vector<support::Process>& relays) {
  Cpu cpu{.postgres = cpuSeconds(servers.postgres), .broker = cpuSeconds(servers.rabbit.pid())};
  for (const auto& relay : relays) cpu.relay += cpuSeconds(relay.pid());
  return cpu;
}

double perEvent(double before, double after, long events) {
  return (after - before) * 1e6 / static_cast<double>(events);
}

}  // namespace

Drain drain(BenchServers& servers, const Backlog& backlog, int relays) {
  const std::string database = servers.createDatabase();
  servers.freshQueue();
  fillOutbox(servers, database, backlog);
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
  const Cpu before = cpuOf(servers, processes);
  const bool done =
      support::eventually(std::chrono::minutes(15), [&] { return depth.now() >= backlog.events; });
  const long events = backlog.events - first;
  Drain result;
  result.rate = static_cast<double>(events) / secondsSince(start);
  const Cpu after = cpuOf(servers, processes);
  result.cpu = {perEvent(before.relay, after.relay, events),
                perEvent(before.postgres, after.postgres, events),
                perEvent(before.broker, after.broker, events)};
  if (!done) throw std::runtime_error("the backlog was not drained in a quarter of an hour");
  for (auto& process : processes) {
    result.peakRssMib = std::max(result.peakRssMib, peakRssMib(process.pid()));
    if (process.terminate(std::chrono::seconds(20)) != 0) {
      throw std::runtime_error("a relay did not end well: " + process.output());
    }
  }
  return result;
}

Bare drainBare(BenchServers& servers, long events, long window) {
  servers.freshQueue();
  const double before = cpuSeconds(::getpid());
  const double seconds = publishBare("127.0.0.1", servers.rabbit.port(), kExchange, events, window);
  return {static_cast<double>(events) / seconds, perEvent(before, cpuSeconds(::getpid()), events)};
}

}  // namespace pillion::bench
