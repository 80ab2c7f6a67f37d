#include "support/spawn.hpp"

#include <fcntl.h>
#include <linux/close_range.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <csignal>
#include <deque>
#include <future>
#include <mutex>
#include <system_error>
#include <thread>

namespace pillion::support {
namespace {

// What the child says about itself when it cannot become the program.
struct ChildFailure {
  int step = 0;
  int error = 0;
};

constexpr const char* kSteps[] = {"prepare", "change the user for", "change the directory for",
                                  "execute"};

struct RawPlan {
  const char* program;
  char* const* arguments;
  char* const* environment;
  const char* directory;  // nullptr: stay
  int input;
  int output;
  const User* user;
  int report;
  pid_t parent;
};

// The raw calls: glibc's wrappers would try to tell the parent's threads, which the child lacks.
bool changeUser(const User& user) {
  const gid_t groups[] = {user.gid};
  return syscall(SYS_setgroups, 1, groups) == 0 &&
         syscall(SYS_setresgid, user.gid, user.gid, user.gid) == 0 &&
         syscall(SYS_setresuid, user.uid, user.uid, user.uid) == 0;
}

// A handler of ours does not exist in the program, and an ignored signal would stay ignored.
void resetSignals() {
  struct sigaction action {};
  action.sa_handler = SIG_DFL;
  for (int number = 1; number < NSIG; ++number) sigaction(number, &action, nullptr);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
}

void closeOthersOnExec() {
  if (syscall(SYS_close_range, 3U, ~0U, CLOSE_RANGE_CLOEXEC) == 0) return;
  // Kernels before 5.11 do not know the flag.
  for (int fd = 3; fd < 1024; ++fd) fcntl(fd, F_SETFD, FD_CLOEXEC);
}

// Returns the number of the step that failed, with errno set.
int becomeProgram(const RawPlan& plan) {
  resetSignals();
  if (setpgid(0, 0) != 0) return 0;
  if (dup2(plan.input, 0) < 0 || dup2(plan.output, 1) < 0 || dup2(plan.output, 2) < 0) return 0;
  if (plan.user != nullptr && !changeUser(*plan.user)) return 1;
  // After the change of user, because that clears it.
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) return 0;
  // The parent may have died before the line above.
  if (getppid() != plan.parent) _exit(127);
  if (plan.directory != nullptr && chdir(plan.directory) != 0) return 2;
  closeOthersOnExec();
  execve(plan.program, plan.arguments, plan.environment);
  return 3;
}

[[noreturn]] void childMain(const RawPlan& plan) {
  ChildFailure failure;
  failure.step = becomeProgram(plan);
  failure.error = errno;
  [[maybe_unused]] const auto written = write(plan.report, &failure, sizeof failure);
  _exit(127);
}

std::vector<char*> pointers(const std::vector<std::string>& strings) {
  std::vector<char*> result;
  result.reserve(strings.size() + 1);
  for (const auto& item : strings) result.push_back(const_cast<char*>(item.c_str()));
  result.push_back(nullptr);
  return result;
}

// Waits for the exec, which closes the pipe, or for the report that it failed.
void awaitExec(int report, pid_t pid, const std::string& program) {
  ChildFailure failure;
  ssize_t count = 0;
  do {
    count = read(report, &failure, sizeof failure);
  } while (count < 0 && errno == EINTR);
  close(report);
  if (count <= 0) return;
  waitpid(pid, nullptr, 0);
  throw std::system_error(failure.error, std::generic_category(),
                          std::string("cannot ") + kSteps[failure.step] + " " + program);
}

pid_t forkChild(const SpawnPlan& plan) {
  int report[2];
  if (pipe2(report, O_CLOEXEC) != 0) {
    throw std::system_error(errno, std::generic_category(), "pipe2");
  }
  const auto arguments = pointers(plan.arguments);
  const auto environment = pointers(plan.environment);
  RawPlan raw{};
  raw.program = plan.program.c_str();
  raw.arguments = arguments.data();
  raw.environment = environment.data();
  raw.directory = plan.directory.empty() ? nullptr : plan.directory.c_str();
  raw.input = plan.standardInput;
  raw.output = plan.standardOutput;
  raw.user = plan.runAs ? &*plan.runAs : nullptr;
  raw.report = report[1];
  raw.parent = getpid();
  const pid_t pid = fork();
  if (pid == 0) childMain(raw);
  const int error = errno;
  close(report[1]);
  if (pid < 0) {
    close(report[0]);
    throw std::system_error(error, std::generic_category(), "fork");
  }
  setpgid(pid, pid);  // the child does so too; whoever comes first, it holds when we return
  awaitExec(report[0], pid, plan.program);
  return pid;
}

class Spawner {
 public:
  Spawner() {
    // No signal of the program is to be handled on this thread: the child starts as its copy.
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    std::thread([this] { serve(); }).detach();
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  pid_t spawn(const SpawnPlan& plan) {
    std::packaged_task<pid_t()> task([&plan] { return forkChild(plan); });
    auto result = task.get_future();
    {
      const std::lock_guard lock(mutex_);
      tasks_.push_back(std::move(task));
    }
    ready_.notify_one();
    return result.get();
  }

 private:
  [[noreturn]] void serve() {
    for (;;) {
      std::packaged_task<pid_t()> task;
      {
        std::unique_lock lock(mutex_);
        ready_.wait(lock, [this] { return !tasks_.empty(); });
        task = std::move(tasks_.front());
        tasks_.pop_front();
      }
      task();
    }
  }

  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<std::packaged_task<pid_t()>> tasks_;
};

}  // namespace

pid_t spawn(const SpawnPlan& plan) {
  // Never destroyed: its thread has to outlive every static object that owns a server.
  static auto* const spawner = new Spawner;
  return spawner->spawn(plan);
}

}  // namespace pillion::support
