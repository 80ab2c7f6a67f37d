#include "base/failpoint.hpp"

#ifdef PILLION_FAILPOINTS

#include <csignal>
#include <cstdlib>
#include <map>
#include <mutex>
#include <pillion/error.hpp>
#include <thread>

namespace pillion::base::failpoint {
namespace {

struct Site {
  std::string action;
  int argument = 0;
  std::uint64_t onlyPassage = 0;
  std::uint64_t passages = 0;
};

class InjectedError : public Error {
 public:
  explicit InjectedError(std::string_view site) : Error("failpoint " + std::string(site)) {}
  [[nodiscard]] bool retryable() const noexcept override { return true; }
};

int numberIn(const std::string& text, const std::string& entry) {
  try {
    return std::stoi(text);
  } catch (const std::exception&) {
    throw ConfigError("failpoint '" + entry + "': not a number");
  }
}

std::pair<std::string, Site> parseEntry(const std::string& entry) {
  const auto equals = entry.find('=');
  if (equals == std::string::npos) throw ConfigError("failpoint '" + entry + "': no '='");
  Site site;
  std::string action = entry.substr(equals + 1);
  if (const auto at = action.find('@'); at != std::string::npos) {
    site.onlyPassage = static_cast<std::uint64_t>(numberIn(action.substr(at + 1), entry));
    action.resize(at);
  }
  if (const auto open = action.find('('); open != std::string::npos) {
    site.argument = numberIn(action.substr(open + 1), entry);
    action.resize(open);
  }
  if (action != "kill" && action != "stop" && action != "delay" && action != "error") {
    throw ConfigError("failpoint '" + entry + "': unknown action");
  }
  site.action = action;
  return {entry.substr(0, equals), site};
}

std::map<std::string, Site, std::less<>> parse(const std::string& spec) {
  std::map<std::string, Site, std::less<>> sites;
  std::size_t begin = 0;
  while (begin < spec.size()) {
    const auto end = std::min(spec.find(';', begin), spec.size());
    if (end > begin) sites.insert(parseEntry(spec.substr(begin, end - begin)));
    begin = end + 1;
  }
  return sites;
}

class Registry {
 public:
  Registry() {
    if (const char* spec = std::getenv("PILLION_FAILPOINTS")) sites_ = parse(spec);
  }

  void replace(std::map<std::string, Site, std::less<>> sites) {
    const std::scoped_lock lock(mutex_);
    sites_ = std::move(sites);
  }

  /// Counts the passage and says what to do; the action itself runs without the lock.
  Site pass(std::string_view name) {
    const std::scoped_lock lock(mutex_);
    const auto found = sites_.find(name);
    if (found == sites_.end()) return {};
    Site& site = found->second;
    ++site.passages;
    if (site.onlyPassage != 0 && site.onlyPassage != site.passages) return {};
    return site;
  }

  std::uint64_t passages(std::string_view name) {
    const std::scoped_lock lock(mutex_);
    const auto found = sites_.find(name);
    return found == sites_.end() ? 0 : found->second.passages;
  }

 private:
  std::mutex mutex_;
  std::map<std::string, Site, std::less<>> sites_;
};

Registry& registry() {
  static Registry instance;
  return instance;
}

}  // namespace

void hit(std::string_view site) {
  const Site armed = registry().pass(site);
  if (armed.action.empty()) return;
  if (armed.action == "kill") {
    ::raise(SIGKILL);
  } else if (armed.action == "stop") {
    ::raise(SIGSTOP);
  } else if (armed.action == "delay") {
    std::this_thread::sleep_for(std::chrono::milliseconds(armed.argument));
  } else {
    throw InjectedError(site);
  }
}

void arm(const std::string& spec) {
  registry().replace(parse(spec));
}

void disarm() {
  registry().replace({});
}

std::uint64_t passages(std::string_view site) {
  return registry().passages(site);
}

}  // namespace pillion::base::failpoint

#endif
