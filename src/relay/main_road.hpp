#pragma once

#include <cstddef>
#include <cstdint>
#include <pillion/relay.hpp>
#include <set>
#include <string>
#include <vector>

#include "amqp/channel.hpp"
#include "base/clock.hpp"
#include "outbox/event_log.hpp"
#include "relay/confirm_tracker.hpp"
#include "relay/counters.hpp"
#include "relay/parking.hpp"
#include "relay/send_window.hpp"
#include "relay/suspicion.hpp"
#include "relay/unsettled.hpp"

namespace pillion::relay {

/// Carries events of which nothing bad is known, at full window. An event with any other verdict
/// than *confirmed and routed* leaves it, by way of the parked events, for the second road
/// (`Prober`).
class MainRoad {
 public:
  using Boot = base::Clock::Boot;

  MainRoad(Parking& parking, Suspicion& suspicion, const RelayOptions& options, Counters& counters,
           const base::Clock& clock);

  /// A new connection. `wasAway`: the broker could not be reached for a while.
  void useChannel(amqp::PublishChannel* channel, bool wasAway);
  /// What was unconfirmed is unknown, and is sent again, in its order. But when a broker that is
  /// there all the time has confirmed nothing for the stall limit, it may be the fault of any that
  /// were in flight, and they leave.
  void channelLost();
  [[nodiscard]] bool proven() const { return window_.proven(); }

  /// Is there room for another page? `lanes`: those that the relay holds.
  [[nodiscard]] bool hasRoom(outbox::Lanes lanes) const;
  /// Takes the events of a page in.
  void enter(outbox::Page& page);

  [[nodiscard]] bool maySend();
  /// Some messages in one corked write. Needs maySend().
  void sendBurst();
  /// Once for all that were settled unsent since they had expired.
  void sayExpired();
  /// Those that waited for the second road are looked at again, unless it is still at it.
  void readmit();
  /// So many wait for it that others would have to wait, too.
  [[nodiscard]] bool keepsTooMany() const;

  // What the broker says of this road.
  void confirmed(const amqp::Confirm& confirm);
  void returned(const amqp::Returned& returned);
  void closed(const amqp::ChannelClosed& closed);
  void unblocked(Boot now) { window_.unblocked(now); }
  /// Gives up what is overdue. Throws BrokerError when nothing at all is confirmed.
  void requireProgress(Boot now);

  [[nodiscard]] Unsettled& unsettled() { return unsettled_; }
  [[nodiscard]] const Unsettled& unsettled() const { return unsettled_; }
  /// Nothing is in flight or about to be.
  [[nodiscard]] bool isStill() const {
    return tracker_.outstanding() == 0 && !unsettled_.hasReady();
  }

 private:
  ItemPtr itemToSend(Row& row);
  bool settleUnsent();
  void sendNext(Boot now);
  void settle(Verdict verdict, ItemPtr item);
  void leave(ItemPtr item, outbox::Reason reason);
  void takeOut(const amqp::ChannelClosed& closed);
  template <typename Predicate>
  void giveUp(const Predicate& which);
  void renewChannel();

  Parking& parking_;
  Suspicion& suspicion_;
  const RelayOptions& options_;
  Counters& counters_;
  const base::Clock& clock_;

  amqp::PublishChannel* channel_ = nullptr;
  Unsettled unsettled_;
  ConfirmTracker<ItemPtr> tracker_;
  SendWindow window_;
  std::vector<ItemPtr> waiting_;  // until the second road has sent the last before them
  std::vector<ItemPtr> stalled_;  // the broker was silent about them, until it is known why
  bool channelIsStale_ = false;
  std::uint64_t expiredUnsaid_ = 0;
  std::set<std::string> droppedTypes_;  // those that were spoken of
};

}  // namespace pillion::relay
