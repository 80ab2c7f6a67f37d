#pragma once

#include <sys/types.h>

#include <chrono>
#include <vector>

namespace pillion::support {

struct ProcessEntry {
  pid_t pid = 0;
  pid_t parent = 0;
  pid_t group = 0;
  char state = '?';  // as in /proc/PID/stat: 'Z' has ended and waits to be reaped
};

std::vector<ProcessEntry> processTable();

// Children of children are included, nearest first.
std::vector<pid_t> descendantsOf(pid_t pid);
std::vector<pid_t> membersOfGroup(pid_t group);

// A zombie counts as gone: it holds neither memory nor sockets, and whoever adopted it may take
// seconds to reap it. Our own zombies among `pids` are reaped on the way, so do not pass the pid of
// a live Process object.
bool waitUntilGone(const std::vector<pid_t>& pids, std::chrono::milliseconds limit);

}  // namespace pillion::support
