#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>

#include "base/clock.hpp"

namespace pillion::inbox {

/// Has a queue to which nothing is published any more been worked off? The broker counts what is
/// ready, the consumer what it has in hand, and neither sees what is on its way between them: so
/// there must have been nothing at all for a while.
class DrainWatch {
 public:
  explicit DrainWatch(const base::Clock& clock = base::systemClock()) : clock_(clock) {}

  /// To be asked again and again. `received`: so many deliveries so far; `empty`: nothing is ready,
  /// and nothing of these is open.
  bool isDrained(const std::string& queue, std::uint64_t received, bool empty) {
    const auto now = clock_.boot();
    const auto [quiet, isNew] = quiet_.try_emplace(queue, Quiet{received, now});
    if (!empty || quiet->second.received != received) quiet->second = {received, now};
    return empty && now - quiet->second.since >= kLongEnough;
  }
  void forget() { quiet_.clear(); }

 private:
  static constexpr std::chrono::seconds kLongEnough{2};
  struct Quiet {
    std::uint64_t received = 0;
    base::Clock::Boot since{0};
  };
  const base::Clock& clock_;
  std::map<std::string, Quiet> quiet_;
};

}  // namespace pillion::inbox
