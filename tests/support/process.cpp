#include "support/process.hpp"

#include <fcntl.h>
#include <pwd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <fstream>
#include <mutex>
#include <set>
#include <sstream>
#include <stdexcept>
#include <system_error>
#include <thread>

#include "support/process_table.hpp"
#include "support/temporary_directory.hpp"

namespace pillion::support {
namespace {

class FileDescriptor {
 public:
  FileDescriptor(int fd, const std::string& what) : fd_(fd) {
    if (fd < 0) throw std::system_error(errno, std::generic_category(), what);
  }
  ~FileDescriptor() { close(fd_); }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

// A file in memory instead of a pipe: nobody has to stay around to feed it.
int openInput(const std::string& text) {
  if (text.empty()) return open("/dev/null", O_RDONLY | O_CLOEXEC);
  const int fd = memfd_create("input", MFD_CLOEXEC);
  if (fd < 0) return fd;
  const bool written = write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  if (written && lseek(fd, 0, SEEK_SET) == 0) return fd;
  close(fd);
  return -1;
}

int openOutput(const std::filesystem::path& path) {
  if (path.empty()) return open("/dev/null", O_WRONLY | O_CLOEXEC);
  return open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
}

std::vector<std::string> mergedEnvironment(const ProcessOptions& options) {
  std::vector<std::string> result;
  for (char** item = environ; *item != nullptr; ++item) {
    const std::string entry = *item;
    const auto begins = [&](const std::string& prefix) { return entry.starts_with(prefix); };
    const auto& dropped = options.withoutPrefixes;
    if (std::any_of(dropped.begin(), dropped.end(), begins)) continue;
    if (options.environment.contains(entry.substr(0, entry.find('=')))) continue;
    result.push_back(entry);
  }
  for (const auto& [name, value] : options.environment) {
    result.push_back(std::string(name).append("=").append(value));
  }
  return result;
}

// The children that Process objects will wait for themselves.
struct OwnChildren {
  std::mutex mutex;
  std::set<pid_t> pids;
};

OwnChildren& ownChildren() {
  static auto* const children = new OwnChildren;  // also used while static objects are destroyed
  return *children;
}

pid_t start(const ProcessOptions& options) {
  if (options.command.empty()) throw std::invalid_argument("a process needs a command");
  const auto program = findProgram(options.command.front());
  if (!program) throw std::runtime_error("no program " + options.command.front() + " in PATH");
  const FileDescriptor input(openInput(options.input), "cannot open the standard input");
  const FileDescriptor output(openOutput(options.output), "cannot open " + options.output.string());
  SpawnPlan plan;
  plan.program = *program;
  plan.arguments = options.command;
  plan.environment = mergedEnvironment(options);
  plan.directory = options.directory;
  plan.standardInput = input.get();
  plan.standardOutput = output.get();
  plan.runAs = options.runAs;
  // Locked throughout, or a child that ends at once could be taken for an orphan.
  auto& children = ownChildren();
  const std::lock_guard lock(children.mutex);
  const pid_t pid = spawn(plan);
  children.pids.insert(pid);
  return pid;
}

int exitStatus(int status) {
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

}  // namespace

std::optional<User> unprivilegedUser() {
  if (geteuid() != 0) return std::nullopt;
  for (const char* name : {"postgres", "nobody"}) {
    if (const passwd* entry = getpwnam(name)) return User{entry->pw_uid, entry->pw_gid, name};
  }
  throw std::runtime_error("running as root, and neither postgres nor nobody is a known user");
}

void becomeSubreaper() {
  if (prctl(PR_SET_CHILD_SUBREAPER, 1) != 0) {
    throw std::system_error(errno, std::generic_category(), "PR_SET_CHILD_SUBREAPER");
  }
}

void reapOrphans() {
  auto& children = ownChildren();
  const std::lock_guard lock(children.mutex);
  for (const auto& entry : processTable()) {
    const bool orphan = entry.parent == getpid() && entry.state == 'Z';
    if (orphan && !children.pids.contains(entry.pid)) waitpid(entry.pid, nullptr, WNOHANG);
  }
}

std::optional<std::filesystem::path> findProgram(
    const std::string& name, const std::vector<std::filesystem::path>& directories) {
  if (name.find('/') != std::string::npos) return name;
  std::vector<std::filesystem::path> places;
  if (const char* path = getenv("PATH")) {
    std::istringstream list(path);
    for (std::string item; std::getline(list, item, ':');) places.emplace_back(item);
  }
  places.insert(places.end(), directories.begin(), directories.end());
  for (const auto& place : places) {
    auto candidate = place / name;
    if (access(candidate.c_str(), X_OK) == 0) return candidate;
  }
  return std::nullopt;
}

std::string readFile(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path.string());
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::string tailOf(const std::filesystem::path& path, std::size_t bytes) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) return {};
  const auto size = static_cast<std::size_t>(file.tellg());
  file.seekg(static_cast<std::streamoff>(size - std::min(size, bytes)));
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

struct Process::State {
  ProcessOptions options;
  pid_t pid = 0;
  std::mutex mutex;
  std::optional<int> status;

  // With the mutex held. The group is killed while the leader is still a zombie: until it is
  // reaped its number cannot belong to anybody else.
  bool ended() {
    if (status) return true;
    siginfo_t info{};
    const auto id = static_cast<id_t>(pid);
    const int result = waitid(P_PID, id, &info, WEXITED | WNOHANG | WNOWAIT);
    if (result == 0 && info.si_pid == 0) return false;
    if (result != 0 && errno == EINTR) return false;
    if (result != 0) {
      status = 255;  // somebody else has reaped it, so nothing is known but that it is gone
      forget();
      return true;
    }
    kill(-pid, SIGKILL);
    int raw = 0;
    while (waitpid(pid, &raw, 0) < 0 && errno == EINTR) continue;
    status = exitStatus(raw);
    forget();
    return true;
  }

  void forget() const {
    auto& children = ownChildren();
    const std::lock_guard lock(children.mutex);
    children.pids.erase(pid);
  }
};

Process::Process(ProcessOptions options) : state_(std::make_unique<State>()) {
  state_->options = std::move(options);
  state_->pid = start(state_->options);
}

Process::Process(Process&& other) noexcept = default;

Process& Process::operator=(Process&& other) noexcept {
  if (this != &other) {
    killAndReap();
    state_ = std::move(other.state_);
  }
  return *this;
}

Process::~Process() {
  killAndReap();
}

void Process::killAndReap() noexcept {
  if (!state_) return;
  signalGroup(SIGKILL);
  wait();
}

pid_t Process::pid() const {
  return state_->pid;
}

bool Process::running() const {
  const std::lock_guard lock(state_->mutex);
  return !state_->ended();
}

void Process::signal(int number) const {
  const std::lock_guard lock(state_->mutex);
  if (!state_->ended()) kill(state_->pid, number);
}

void Process::signalGroup(int number) const {
  const std::lock_guard lock(state_->mutex);
  if (!state_->ended()) kill(-state_->pid, number);
}

std::optional<int> Process::waitFor(std::chrono::milliseconds limit) const {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  for (auto pause = std::chrono::microseconds(200);;) {
    {
      const std::lock_guard lock(state_->mutex);
      if (state_->ended()) return state_->status;
    }
    if (std::chrono::steady_clock::now() >= deadline) return std::nullopt;
    std::this_thread::sleep_for(pause);
    pause = std::min(pause * 2, std::chrono::microseconds(5000));
  }
}

int Process::wait() const {
  for (;;) {
    if (const auto status = waitFor(std::chrono::hours(1))) return *status;
  }
}

int Process::terminate(std::chrono::milliseconds grace) const {
  signal(SIGTERM);
  if (const auto status = waitFor(grace)) return *status;
  signalGroup(SIGKILL);
  return wait();
}

std::string Process::output() const {
  return state_->options.output.empty() ? std::string() : readFile(state_->options.output);
}

RunResult run(ProcessOptions options, std::chrono::milliseconds timeout) {
  TemporaryDirectory scratch;
  scratch.keep(false);  // PILLION_KEEP is about the servers' files, not about these
  if (options.output.empty()) options.output = scratch / "output";
  const std::string name = options.command.empty() ? std::string() : options.command.front();
  const Process process(std::move(options));
  const auto status = process.waitFor(timeout);
  if (!status) {
    throw std::runtime_error(name + " did not end within " + std::to_string(timeout.count()) +
                             " ms: " + process.output());
  }
  return {*status, process.output()};
}

}  // namespace pillion::support
