#pragma once

#include <sys/types.h>

#include "bench_servers.hpp"

namespace pillion::bench {

/// CPU seconds, user and system, of a process and all its threads, by the kernel's own count.
double cpuSeconds(pid_t pid);

/// The same of PostgreSQL: the postmaster, its children, and those that it has seen end.
double cpuSeconds(const support::PostgresServer& postgres);

/// The peak of resident memory.
double peakRssMib(pid_t pid);

}  // namespace pillion::bench
