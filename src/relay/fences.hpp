#pragma once

#include <string>
#include <utility>

#include "amqp/connection.hpp"
#include "outbox/cursor.hpp"

namespace pillion::relay {

/// One exclusive queue per lane on the publishing connection. The broker, which knows no tokens,
/// refuses it to a successor until the connection of whoever held the lane before is gone, so that
/// nothing of a lane is published by two relays at once.
class Fences {
 public:
  /// Holds none yet. The connection must outlive it.
  Fences(amqp::Connection& connection, std::string prefix)
      : connection_(connection), prefix_(std::move(prefix)) {}

  /// Tries to hold these as well; returns which of them are held now. Gives up after a few
  /// refusals, each of which costs round trips, and begins behind them the next time. Throws
  /// BrokerError.
  outbox::Lanes hold(outbox::Lanes wanted);

  /// Lets all others go: their lanes are another relay's now.
  void keepOnly(outbox::Lanes lanes);

 private:
  [[nodiscard]] std::string nameOf(int lane) const;

  amqp::Connection& connection_;
  std::string prefix_;
  outbox::Lanes held_ = 0;
  int next_ = 0;  // lane to begin with
};

}  // namespace pillion::relay
