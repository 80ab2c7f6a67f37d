#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "amqp/url.hpp"

namespace pillion::amqp {

/// The hosts of a broker URL, of which one is enough.
class Hosts {
 public:
  explicit Hosts(std::vector<Url> urls) : urls_(std::move(urls)) {}

  /// Tries one after the other until `attempt` does not throw; returns which it was. Begins behind
  /// the one that failed last, in whatever connection of this process, and ends when all were tried
  /// or the limit has passed: the caller has leases to keep, and the rest comes first the next
  /// time.
  ///
  /// When none will do, throws what the only one threw. Of several it names each with its trouble,
  /// as a ConfigError when waiting heals none of them, else as a BrokerError.
  const Url& tryEach(std::chrono::milliseconds limit,
                     const std::function<void(const Url&)>& attempt) const;

  /// The next attempt, of any connection, begins with another one.
  void failed(const Url& url) const;

 private:
  void failedAt(std::size_t index) const;

  std::vector<Url> urls_;
};

}  // namespace pillion::amqp
