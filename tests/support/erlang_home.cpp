#include "support/erlang_home.hpp"

#include <charconv>
#include <deque>
#include <map>
#include <regex>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/process.hpp"

namespace pillion::support {
namespace {

namespace fs = std::filesystem;

std::vector<int> numbersOf(const std::string& version) {
  std::vector<int> numbers;
  const char* at = version.data();
  const char* const end = at + version.size();
  for (int number = 0; at < end; ++at) {
    const auto [next, error] = std::from_chars(at, end, number);
    if (error != std::errc()) break;
    numbers.push_back(number);
    at = next;
  }
  return numbers;
}

// Directories are named APPLICATION-VERSION.
std::map<std::string, fs::path> applicationsIn(const fs::path& plugins) {
  std::map<std::string, fs::path> found;
  for (const auto& item : fs::directory_iterator(plugins)) {
    const std::string name = item.path().filename();
    const auto dash = name.find('-');
    const auto application = name.substr(0, dash);
    if (fs::exists(item.path() / "ebin" / (application + ".app"))) {
      found.emplace(application, item.path());
    }
  }
  return found;
}

std::vector<std::string> dependenciesOf(const std::string& application, const fs::path& path) {
  const auto text = readFile(path / "ebin" / (application + ".app"));
  static const std::regex list(R"(\{\s*applications\s*,\s*\[([^\]]*)\])");
  static const std::regex name(R"([a-z][A-Za-z0-9_]*)");
  std::vector<std::string> result;
  std::smatch match;
  if (!std::regex_search(text, match, list)) return result;
  const std::string names = match[1];
  for (std::sregex_iterator i(names.begin(), names.end(), name), end; i != end; ++i) {
    result.push_back(i->str());
  }
  return result;
}

// Applications outside `available` belong to Erlang itself.
std::set<std::string> closure(const std::string& root,
                              const std::map<std::string, fs::path>& available) {
  std::set<std::string> seen{root};
  std::deque<std::string> open{root};
  while (!open.empty()) {
    const auto application = open.front();
    open.pop_front();
    for (const auto& name : dependenciesOf(application, available.at(application))) {
      if (available.contains(name) && seen.insert(name).second) open.push_back(name);
    }
  }
  return seen;
}

}  // namespace

RabbitHome findRabbitHome() {
  static const std::string prefix = "rabbitmq_server-";
  std::vector<int> newest;
  RabbitHome home;
  std::error_code missing;
  for (const auto& item : fs::directory_iterator("/usr/lib/rabbitmq/lib", missing)) {
    const std::string name = item.path().filename();
    if (!name.starts_with(prefix) || !fs::exists(item.path() / "sbin/rabbitmq-server")) continue;
    const auto version = numbersOf(name.substr(prefix.size()));
    if (version <= newest) continue;
    newest = version;
    home = {item.path(), version.front()};
  }
  if (newest.empty()) throw std::runtime_error("no RabbitMQ server in /usr/lib/rabbitmq/lib");
  return home;
}

std::optional<fs::path> buildSlimHome(const RabbitHome& home, const fs::path& target) {
  try {
    const auto available = applicationsIn(home.directory / "plugins");
    if (!available.contains("rabbit")) return std::nullopt;
    fs::remove_all(target);
    fs::create_directories(target / "plugins");
    for (const char* part : {"sbin", "escript"}) {
      // Copies, because the scripts find the home from where they are.
      fs::copy(home.directory / part, target / part, fs::copy_options::recursive);
    }
    for (const auto& name : closure("rabbit", available)) {
      const auto& path = available.at(name);
      fs::create_directory_symlink(path, target / "plugins" / path.filename());
    }
    return target;
  } catch (const fs::filesystem_error&) {
    return std::nullopt;
  }
}

fs::path findErlangProgram(const std::string& name) {
  std::vector<fs::path> places;
  std::error_code missing;
  for (const auto& item : fs::directory_iterator("/usr/lib/erlang", missing)) {
    if (item.path().filename().string().starts_with("erts-")) places.push_back(item.path() / "bin");
  }
  return findProgram(name, places).value_or(fs::path());
}

}  // namespace pillion::support
