#include "process_time.hpp"

#include <unistd.h>

#include <fstream>
#include <sstream>
#include <string>

#include "support/process_table.hpp"

namespace pillion::bench {
namespace {

/// Of proc(5)'s stat, in clock ticks: utime and stime; cutime and cstime are those of children that
/// were waited for.
struct Ticks {
  long own = 0;
  long ofEnded = 0;
};

Ticks ticksOf(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string line;
  if (!std::getline(file, line)) return {};  // it has ended: its parent has its time
  // The name, in brackets, may hold anything; utime is the twelfth field behind it.
  std::istringstream fields(line.substr(line.rfind(')') + 1));
  std::string skipped;
  for (int i = 0; i < 11; ++i) fields >> skipped;
  long user = 0;
  long system = 0;
  long childUser = 0;
  long childSystem = 0;
  fields >> user >> system >> childUser >> childSystem;
  return {user + system, childUser + childSystem};
}

double secondsOf(long ticks) {
  return static_cast<double>(ticks) / static_cast<double>(::sysconf(_SC_CLK_TCK));
}

}  // namespace

double cpuSeconds(pid_t pid) {
  return secondsOf(ticksOf(pid).own);
}

double cpuSeconds(const support::PostgresServer& postgres) {
  const Ticks postmaster = ticksOf(postgres.pid());
  long ticks = postmaster.own + postmaster.ofEnded;
  for (const support::ProcessEntry& process : support::processTable()) {
    if (process.parent == postgres.pid()) ticks += ticksOf(process.pid).own;
  }
  return secondsOf(ticks);
}

double peakRssMib(pid_t pid) {
  std::ifstream status("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) return std::stod(line.substr(6)) / 1024.0;
  }
  return 0;
}

}  // namespace pillion::bench
