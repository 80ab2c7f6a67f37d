#pragma once

#include <sys/types.h>

#include <chrono>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "support/spawn.hpp"

namespace pillion::support {

// Who a server that refuses to run as root should be: nullopt when we are not root ourselves,
// otherwise `postgres` if that user exists, or `nobody`.
std::optional<User> unprivilegedUser();

// Makes this process the parent of orphaned grandchildren, so that it can wait for them itself
// where process 1 is slow to do so.
void becomeSubreaper();
// Reaps what a subreaper was left with and nobody waits for: helpers of killed servers. It takes
// every dead child that is no Process, so do not call it in a program that also forks otherwise.
void reapOrphans();

// The path of an executable found in PATH or in one of `directories`; nullopt when there is none.
std::optional<std::filesystem::path> findProgram(
    const std::string& name, const std::vector<std::filesystem::path>& directories = {});

std::string readFile(const std::filesystem::path& path);
// The last `bytes` of a log, for error messages; empty when the file cannot be read.
std::string tailOf(const std::filesystem::path& path, std::size_t bytes = 3000);

struct ProcessOptions {
  std::vector<std::string> command;  // command[0] is looked up in PATH unless it has a slash
  std::map<std::string, std::string> environment = {};  // added to ours
  std::vector<std::string> withoutPrefixes = {};        // of ours, names that begin so are dropped
  std::filesystem::path directory = {};                 // empty: ours
  std::filesystem::path output = {};  // stdout and stderr are appended; empty: /dev/null
  std::string input = {};             // standard input; empty: /dev/null
  std::optional<User> runAs = {};
};

// A direct child in a process group of its own. It is killed when this program dies, however that
// happens (see spawn.hpp about threads), and its group is killed when it ends or this object does.
// The methods may be called from several threads.
class Process {
 public:
  explicit Process(ProcessOptions options);
  Process(Process&& other) noexcept;
  Process& operator=(Process&& other) noexcept;
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  ~Process();

  pid_t pid() const;
  bool running() const;
  // Both do nothing once the process has ended, so a reused pid is never hit.
  void signal(int number) const;
  void signalGroup(int number) const;

  // The exit status, 128 + signal when killed; nullopt when it is still running after `limit`.
  std::optional<int> waitFor(std::chrono::milliseconds limit) const;
  int wait() const;
  // SIGTERM to the process, and SIGKILL to its group if that did not end it within `grace`.
  int terminate(std::chrono::milliseconds grace = std::chrono::seconds(10)) const;

  // What the output file holds by now; it may also hold the output of earlier processes.
  std::string output() const;

 private:
  struct State;
  void killAndReap() noexcept;

  std::unique_ptr<State> state_;
};

struct RunResult {
  int status = 0;
  std::string output;  // stdout and stderr
};

// Runs a program to its end. Throws std::runtime_error when that takes longer than `timeout`.
RunResult run(ProcessOptions options, std::chrono::milliseconds timeout = std::chrono::seconds(60));

}  // namespace pillion::support
