#pragma once

#include <sys/types.h>

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace pillion::support {

struct User {
  uid_t uid = 0;
  gid_t gid = 0;
  std::string name;
};

// Everything a child needs, worked out beforehand: between fork and exec only async-signal-safe
// calls are allowed, so nothing may be allocated there.
struct SpawnPlan {
  std::string program;
  std::vector<std::string> arguments;    // with argv[0]
  std::vector<std::string> environment;  // NAME=value
  std::filesystem::path directory;       // empty: ours
  int standardInput = -1;
  int standardOutput = -1;  // also its standard error
  std::optional<User> runAs;
};

// Starts the child and returns its pid; throws std::system_error when any step up to exec fails.
//
// The kernel sends a child its parent-death signal when the *thread* that forked it ends, not the
// process. All children are therefore forked by one thread that lives as long as the program, and
// any thread may start a server and end before it.
pid_t spawn(const SpawnPlan& plan);

}  // namespace pillion::support
