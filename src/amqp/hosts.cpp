#include "amqp/hosts.hpp"

#include <algorithm>
#include <atomic>
#include <exception>
#include <pillion/error.hpp>

#include "base/clock.hpp"

namespace pillion::amqp {
namespace {

/// Index of the host that the next connection begins with. One for the process: when a node ends,
/// all connections to it end, and each of them should leave it and pass no other by.
std::atomic<std::size_t>& preferred() {
  static std::atomic<std::size_t> index{0};
  return index;
}

struct Failure {
  std::string text;  // empty: not tried
  bool final = false;
};

[[noreturn]] void throwAll(const std::vector<Failure>& failures) {
  std::string all;
  bool final = true;
  for (const Failure& failure : failures) {
    final = final && failure.final;
    if (failure.text.empty() || all.find(failure.text) != std::string::npos) continue;
    all += (all.empty() ? "" : "; ") + failure.text;
  }
  const std::string text = "none of " + std::to_string(failures.size()) + " hosts will do: " + all;
  if (final) throw ConfigError(text);
  throw BrokerError(text);
}

}  // namespace

const Url& Hosts::tryEach(std::chrono::milliseconds limit,
                          const std::function<void(const Url&)>& attempt) const {
  const auto begin = base::systemClock().boot();
  const std::size_t first = preferred().load();
  std::vector<Failure> failures(urls_.size());
  for (std::size_t i = 0; i < urls_.size(); ++i) {
    if (i > 0 && base::systemClock().boot() - begin > limit) break;
    const std::size_t at = (first + i) % urls_.size();
    try {
      attempt(urls_[at]);
      return urls_[at];
    } catch (const Error& error) {
      failedAt(at);
      if (urls_.size() == 1) throw;
      failures[at] = {error.what(), !error.retryable()};
    }
  }
  throwAll(failures);
}

void Hosts::failed(const Url& url) const {
  const auto it = std::ranges::find_if(urls_, [&](const Url& one) { return &one == &url; });
  if (it != urls_.end()) failedAt(static_cast<std::size_t>(it - urls_.begin()));
}

void Hosts::failedAt(std::size_t index) const {
  std::size_t current = preferred().load();
  if (current % urls_.size() == index) preferred().compare_exchange_strong(current, index + 1);
}

}  // namespace pillion::amqp
