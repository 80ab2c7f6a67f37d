#pragma once

#include <string>
#include <utility>

#include "amqp/connection.hpp"
#include "outbox/cursor.hpp"

namespace pillion::relay {

/// One exclusive queue per lane on the publishing connection. The broker, which knows no tokens,
/// refuses it to a successor until the connection of whoever held the lane before is gone, so that
/// nothing of a lane is published by two relays at once.
///
/// The predecessor may be this relay's own connection, of which the broker has not seen yet that it
/// is gone: a cable was pulled, and heartbeats take their time. What that one may still bring to
/// the broker is in flight for this relay, too, which sends it again before anything later of its
/// key: a late copy then is a repeat of what came before. So the relay need not wait for itself. It
/// holds a *second* fence of the lane until it gets the first, and a successor needs the first, and
/// to see that nobody holds the second.
class Fences {
 public:
  /// Holds none yet. The connection must outlive it.
  Fences(amqp::Connection& connection, std::string prefix)
      : connection_(connection), prefix_(std::move(prefix)) {}

  /// Tries to hold these as well; returns which of them are held now. Gives up after a few
  /// refusals, each of which costs round trips, and begins behind them the next time. Throws
  /// BrokerError.
  outbox::Lanes hold(outbox::Lanes wanted);

  /// The same for lanes that this relay publishes, on a new connection. When `anySecond()` is true
  /// afterwards, it must see that its lanes are still its own before it sends anything: whoever
  /// takes them later finds the second fences, whoever took them before may have looked already.
  outbox::Lanes holdAgain(outbox::Lanes wanted);
  [[nodiscard]] bool anySecond() const { return second_ != 0; }
  /// Tries to have the first fence in place of the second, now and then.
  void leaveSecond();

  /// Throws ConfigError when the user may not hold fences, without disturbing whoever holds them.
  void requireRights();

  /// Lanes whose fence was deleted at the broker since the last call. It is not held any more, and
  /// to be taken again by `hold`.
  outbox::Lanes takeLost();

  /// Lets all others go: their lanes are another relay's now.
  void keepOnly(outbox::Lanes lanes);

 private:
  enum class Which { First, Second };

  [[nodiscard]] std::string nameOf(int lane, Which which = Which::First) const;
  bool holdFirst(int lane);
  bool holdAsSuccessor(int lane);
  void drop(int lane, outbox::Lanes& of, Which which);

  amqp::Connection& connection_;
  std::string prefix_;
  outbox::Lanes held_ = 0;    // lanes that may be published
  outbox::Lanes first_ = 0;   // whose first fence is ours,
  outbox::Lanes second_ = 0;  // and whose second
  int next_ = 0;              // lane to begin with
};

}  // namespace pillion::relay
