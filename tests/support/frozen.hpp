#pragma once

#include <csignal>
#include <utility>
#include <vector>

namespace pillion::support {

/// Processes that hang: stopped until the end of this.
class Frozen {
 public:
  explicit Frozen(std::vector<pid_t> pids) : pids_(std::move(pids)) { signal(SIGSTOP); }
  explicit Frozen(pid_t pid) : Frozen(std::vector{pid}) {}
  ~Frozen() { signal(SIGCONT); }
  Frozen(const Frozen&) = delete;
  Frozen& operator=(const Frozen&) = delete;

 private:
  void signal(int number) const {
    for (const pid_t pid : pids_) ::kill(pid, number);
  }
  std::vector<pid_t> pids_;
};

}  // namespace pillion::support
