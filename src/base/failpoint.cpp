#include "base/failpoint.hpp"

#ifdef PILLION_FAILPOINTS

#include <charconv>
#include <csignal>
#include <cstdlib>
#include <map>
#include <pillion/error.hpp>
#include <thread>

#include "base/thread_safety.hpp"

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

[[noreturn]] void refuse(const std::string& entry) {
  throw ConfigError("failpoint '" + entry +
                    "' is not of the form site=kill|stop|error|delay(milliseconds)[@passage]");
}

int numberIn(const std::string& text, const std::string& entry) {
  int number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || end != text.data() + text.size() || number < 1) refuse(entry);
  return number;
}

std::pair<std::string, Site> parseEntry(const std::string& entry) {
  const auto equals = entry.find('=');
  if (equals == std::string::npos || equals == 0) refuse(entry);
  Site site;
  std::string action = entry.substr(equals + 1);
  if (const auto at = action.find('@'); at != std::string::npos) {
    site.onlyPassage = static_cast<std::uint64_t>(numberIn(action.substr(at + 1), entry));
    action.resize(at);
  }
  if (action.starts_with("delay(") && action.ends_with(")")) {
    site.argument = numberIn(action.substr(6, action.size() - 7), entry);
    action = "delay";
  } else if (action != "kill" && action != "stop" && action != "error") {
    refuse(entry);
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
    const MutexLock lock(mutex_);
    sites_ = std::move(sites);
  }

  /// Counts the passage and says what to do; the action itself runs without the lock.
  Site pass(std::string_view name) {
    const MutexLock lock(mutex_);
    const auto found = sites_.find(name);
    if (found == sites_.end()) return {};
    Site& site = found->second;
    ++site.passages;
    if (site.onlyPassage != 0 && site.onlyPassage != site.passages) return {};
    return site;
  }

  std::uint64_t passages(std::string_view name) {
    const MutexLock lock(mutex_);
    const auto found = sites_.find(name);
    return found == sites_.end() ? 0 : found->second.passages;
  }

 private:
  Mutex mutex_;
  std::map<std::string, Site, std::less<>> sites_ PILLION_GUARDED_BY(mutex_);
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
