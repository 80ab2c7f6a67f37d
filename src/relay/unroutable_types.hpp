#pragma once

#include <map>
#include <optional>
#include <string>

#include "base/backoff.hpp"
#include "base/clock.hpp"

namespace pillion::relay {

/// The event types that no queue is bound to, as far as the relay knows. While a type is here, its
/// new events are parked unsent, so that a topic nobody listens to costs the broker nothing and
/// nothing overtakes the parked ones. One parked event at a time probes whether that has changed;
/// then the others follow, oldest first. No I/O.
class UnroutableTypes {
 public:
  using Boot = base::Clock::Boot;
  using Milliseconds = std::chrono::milliseconds;

  UnroutableTypes(Milliseconds first, Milliseconds most) : first_(first), most_(most) {}

  [[nodiscard]] bool contains(const std::string& type) const { return types_.contains(type); }
  [[nodiscard]] bool empty() const { return types_.empty(); }

  /// An event of the type was returned (or is known to be parked): wait, then probe.
  void add(const std::string& type, Boot now);
  /// The type whose parked events are to be read now, and how many of them: one to probe, more once
  /// a probe was routed. Nothing while some are still on their way.
  struct Due {
    std::string type;
    std::size_t limit;
  };
  [[nodiscard]] std::optional<Due> due(Boot now) const;
  [[nodiscard]] std::optional<Boot> nextDue() const;

  /// So many parked events of the type are on their way; none: it is no longer unroutable.
  void reading(const std::string& type, std::size_t events);
  /// Has any of those read last been returned?
  [[nodiscard]] bool anyReturned(const std::string& type) const;
  /// One of them was routed, or returned once more (or kept back because an older one was).
  void routed(const std::string& type);
  /// One of them is gone unsent, which says nothing of the type's queue.
  void gone(const std::string& type);
  void returned(const std::string& type, Boot now);

 private:
  struct Route {
    base::Backoff backoff;
    Boot next{0};
    std::size_t onTheirWay = 0;
    bool open = false;         // the latest probe was routed
    bool anyReturned = false;  // among those read last
  };

  Milliseconds first_;
  Milliseconds most_;
  std::map<std::string, Route> types_;
};

}  // namespace pillion::relay
