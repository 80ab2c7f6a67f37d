#pragma once

#include <chrono>
#include <optional>
#include <pillion/error.hpp>
#include <string>

#include "base/backoff.hpp"
#include "base/clock.hpp"
#include "base/outage.hpp"

namespace pillion::base {

/// What whoever keeps a connection to a server goes by: it says that the server is away, waits
/// longer each time, and takes a new connection for the end of the outage only when it was of use
/// or has lasted. One that breaks at once ends no outage, and shortens no wait.
class Reconnect {
 public:
  using Boot = Clock::Boot;

  Reconnect(std::string who, std::chrono::milliseconds first, std::chrono::milliseconds most,
            const Clock& clock = systemClock())
      : outage_(std::move(who), clock), backoff_(first, most), clock_(&clock) {}

  void failed(const Error& error) {
    if (!awaySince_) awaySince_ = clock_->boot();
    connectedAt_.reset();
    outage_.began(error);
  }
  /// For so long before the next attempt.
  [[nodiscard]] std::chrono::milliseconds pause() { return backoff_.next(); }

  void connected() { connectedAt_ = clock_->boot(); }
  /// The connection that was made last is still there: has it been of use yet?
  void holds(bool used) {
    if (!connectedAt_ || (!used && clock_->boot() - *connectedAt_ < kSettled)) return;
    connectedAt_.reset();
    works();
  }
  /// The server did what it was asked.
  void works() {
    awaySince_.reset();
    outage_.ended();
    backoff_.reset();
  }

  [[nodiscard]] std::optional<Boot> awaySince() const { return awaySince_; }

 private:
  static constexpr std::chrono::seconds kSettled{1};

  Outage outage_;
  Backoff backoff_;
  const Clock* clock_;
  std::optional<Boot> connectedAt_;  // until the connection has shown that it holds
  std::optional<Boot> awaySince_;
};

}  // namespace pillion::base
