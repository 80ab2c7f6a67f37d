#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <pillion/relay.hpp>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "amqp/channel.hpp"
#include "base/backoff.hpp"
#include "base/clock.hpp"
#include "outbox/parked.hpp"
#include "relay/confirm_tracker.hpp"
#include "relay/counters.hpp"
#include "relay/parking.hpp"
#include "relay/send_window.hpp"
#include "relay/suspicion.hpp"
#include "relay/unsettled.hpp"

namespace pillion::relay {

/// The second road: tries parked events on a channel of its own, so that nothing which happens
/// there is felt on the main one.
///
/// One event probes a sick type. When it gets through, the type is open, and a *pass* goes through
/// what is parked in the order in which it was parked, sending all that nothing keeps: neither its
/// type, nor an earlier event of its key. Near the end of a pass the main road waits with what
/// would have to be parked behind it (`Parking::follow`), for a moment; then the open types are
/// healthy.
class Prober {
 public:
  using Boot = base::Clock::Boot;

  Prober(outbox::ParkedFeed& feed, Parking& parking, Suspicion& suspicion,
         const RelayOptions& options, Counters& counters, const base::Clock& clock,
         base::Random& random);

  /// A new connection, whose second channel is not open yet; or none: what was in flight is unknown
  /// and will be sent again.
  void useChannel(amqp::PublishChannel* channel);

  /// Lanes were taken over: what is parked of them is read from its beginning, by the next pass.
  void addLanes() {
    passFrom_ = 0;  // another relay may have parked before we had looked, and written it later
    lanesCame_ = true;
  }
  /// And given away: should they come back, the pass that goes on has missed something.
  void dropLanes(outbox::Lanes lanes) { passLanes_ &= ~lanes; }

  /// Takes in what was read.
  void read(Boot now);
  /// Is there something to ask? And must what has changed be written before?
  [[nodiscard]] bool wantsToAsk(Boot now) const { return nextQuestion(now).has_value(); }
  [[nodiscard]] bool needsWritten(Boot now) const;
  void ask(Boot now, outbox::Lanes lanes);
  /// A question is open.
  [[nodiscard]] bool isReading() const { return asked_.has_value(); }

  [[nodiscard]] bool maySend();
  /// Some messages in one corked write. Needs maySend().
  void sendBurst();
  /// Gives up what is overdue.
  void requireProgress(Boot now);

  // What the broker says of this road.
  void confirmed(const amqp::Confirm& confirm);
  void returned(const amqp::Returned& returned);
  void closed(const amqp::ChannelClosed& closed);
  void unblocked(Boot now) { window_.unblocked(now); }

  /// When `read` or `send` has something to do next.
  [[nodiscard]] std::optional<Boot> nextDue(Boot now) const;
  /// Lanes of which something is on this road.
  [[nodiscard]] outbox::Lanes busyLanes() const { return unsettled_.busyLanes(); }
  /// Nothing is on this road.
  [[nodiscard]] bool idle() const { return unsettled_.events() == 0; }
  /// The main road has waited long enough, see `Parking::follow`.
  void stopFollowing();

 private:
  using Kind = outbox::ParkedQuestion::Kind;
  enum class Pass { None, Reading, LastRead, Draining };

  /// A probe that hangs holds up the other ones, so not for as long as an event on the main road.
  static Boot probeLimit(const RelayOptions& options) {
    return std::min<Boot>(std::chrono::seconds(5), options.broker.stallTimeout);
  }

  [[nodiscard]] std::optional<Kind> nextQuestion(Boot now) const;
  [[nodiscard]] bool leavesMore() const;
  void beginPass(outbox::Lanes lanes);
  void take(outbox::ParkedAnswer answer, Boot now);
  void takeHeads(const outbox::ParkedQuestion& asked, const outbox::ParkedAnswer& answer);
  void takePass(outbox::ParkedAnswer answer, Boot now);
  void advancePass(Boot now);
  void enter(outbox::ParkedRow& row, ParkedPlace::As as);
  void ended(const ParkedPlace& place, const std::string& type);
  [[nodiscard]] bool mustStay(const Item& item) const;
  bool settleUnsent(const Item& next);
  void leaves(ItemPtr item);
  void gone(const Item& item);
  void keepKey(const Item& item);
  void sendNext(Boot now);
  void settle(Verdict verdict, ItemPtr item);
  void failed(ItemPtr item, outbox::Reason reason);

  outbox::ParkedFeed& feed_;
  Parking& parking_;
  Suspicion& suspicion_;
  const RelayOptions& options_;
  Counters& counters_;
  const base::Clock& clock_;

  amqp::PublishChannel* channel_ = nullptr;
  bool channelIsOpen_ = false;
  Unsettled unsettled_;
  std::set<std::int64_t> onRoad_;  // their seqs
  ConfirmTracker<ItemPtr> tracker_;
  SendWindow window_;

  std::optional<outbox::ParkedQuestion> asked_;
  std::string probed_;  // the type whose probe is on its way; empty: none is
  bool refusedOnItsWay_ = false;
  Pass pass_ = Pass::None;
  bool passWanted_ = false;
  outbox::Lanes passLanes_ = 0;
  bool lanesCame_ = false;      // since it began
  std::int64_t passFrom_ = 0;   // nothing that is parked has a lower seq
  std::int64_t passAt_ = 0;     // up to here it is read
  std::set<std::string> left_;  // types that the pass leaves alone
  std::size_t leftAsked_ = 0;   // so many when it last read
  /// Of which the pass leaves alone what has a higher seq: it may have left an earlier one.
  std::unordered_map<std::string, std::int64_t> keptKeys_;
  std::uint64_t movableAsked_ = 0;
  std::uint64_t serialAsked_ = 0;
  Boot followUntil_{0};
  Boot nextHeads_{0};
  Boot nextRefused_{0};
  std::int64_t refusedAfter_ = 0;
  base::Backoff refusedBackoff_;
};

}  // namespace pillion::relay
