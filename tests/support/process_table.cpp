#include "support/process_table.hpp"

#include <sys/wait.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>

#include "support/eventually.hpp"

namespace pillion::support {
namespace {

std::optional<ProcessEntry> readEntry(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string line;
  if (!std::getline(file, line)) return std::nullopt;
  // The command name is free text in parentheses, so the fields are counted from the last one.
  const auto end = line.rfind(')');
  if (end == std::string::npos) return std::nullopt;
  ProcessEntry entry;
  entry.pid = pid;
  std::istringstream fields(line.substr(end + 1));
  if (!(fields >> entry.state >> entry.parent >> entry.group)) return std::nullopt;
  return entry;
}

bool gone(pid_t pid) {
  if (waitpid(pid, nullptr, WNOHANG) == pid) return true;
  const auto entry = readEntry(pid);
  return !entry || entry->state == 'Z' || entry->state == 'X';
}

}  // namespace

std::vector<ProcessEntry> processTable() {
  std::vector<ProcessEntry> table;
  for (const auto& item : std::filesystem::directory_iterator("/proc")) {
    const std::string name = item.path().filename();
    pid_t pid = 0;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), pid);
    if (error != std::errc() || end != name.data() + name.size()) continue;
    if (auto entry = readEntry(pid)) table.push_back(*entry);
  }
  return table;
}

std::vector<pid_t> descendantsOf(pid_t pid) {
  const auto table = processTable();
  std::vector<pid_t> found{pid};
  for (std::size_t i = 0; i < found.size(); ++i) {
    for (const auto& entry : table) {
      if (entry.parent == found[i]) found.push_back(entry.pid);
    }
  }
  found.erase(found.begin());
  return found;
}

std::vector<pid_t> membersOfGroup(pid_t group) {
  std::vector<pid_t> found;
  for (const auto& entry : processTable()) {
    if (entry.group == group) found.push_back(entry.pid);
  }
  return found;
}

bool waitUntilGone(const std::vector<pid_t>& pids, std::chrono::milliseconds limit) {
  return eventually(limit, [&] { return std::all_of(pids.begin(), pids.end(), gone); });
}

}  // namespace pillion::support
