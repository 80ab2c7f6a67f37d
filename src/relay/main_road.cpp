#include "relay/main_road.hpp"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/failpoint.hpp"
#include "base/log_line.hpp"

namespace pillion::relay {
namespace {

using amqp::Road;
using outbox::Reason;

constexpr std::size_t kBurst = 64;  // messages per corked write
/// Unconfirmed events of one type, while others are confirmed, from which its queue counts as hung.
constexpr std::size_t kMostLate = 100;
static_assert(kMostLate < amqp::kMostAtHungQueues);
/// So many windows and pages of events may be in memory, most of them of keys that have many, ...
constexpr std::size_t kMostPages = 3;
/// ... and so many of these may wait for the second road: what is written while that sends its
/// last.
constexpr std::size_t kMostWaitingPages = 2;

ParkedAs parkedAs(const Row& row) {
  return {.id = row.id, .lane = row.lane, .type = row.type, .key = row.key};
}

ParkedAs parkedAs(const Item& item) {
  return {.id = item.id, .lane = item.lane, .type = item.message.type, .key = item.keyText()};
}

}  // namespace

MainRoad::MainRoad(Parking& parking, Suspicion& suspicion, const RelayOptions& options,
                   Counters& counters, const base::Clock& clock)
    : parking_(parking),
      suspicion_(suspicion),
      options_(options),
      counters_(counters),
      clock_(clock),
      window_(options.windowEvents, options.windowBytes, options.broker.stallTimeout) {}

void MainRoad::useChannel(amqp::PublishChannel* channel, bool wasAway) {
  channel_ = channel;
  window_.reset(clock_.boot());
  auto stalled = std::exchange(stalled_, {});
  if (wasAway) return unsettled_.putBack(std::move(stalled));
  for (ItemPtr& item : stalled) leave(std::move(item), Reason::Unconfirmed);
}

void MainRoad::channelLost() {
  channel_ = nullptr;
  auto unknown = tracker_.takeAll();
  counters_.repeated += unknown.size();
  unsettled_.putBack(std::move(unknown));
  window_.reset(clock_.boot());
}

bool MainRoad::hasRoom(outbox::Lanes lanes) const {
  // A page beyond the window: while one is sent, the next is read.
  const std::size_t most = options_.windowEvents + options_.pageEvents;
  return unsettled_.flowingEvents() < most + waiting_.size() &&
         unsettled_.events() < kMostPages * most && unsettled_.bytes() < options_.pageBytes &&
         // The one event that is handled then must not wait for another.
         (!suspicion_.alert() || (suspicion_.handsFree() && unsettled_.events() == 0)) &&
         (lanes & ~unsettled_.clogged()) != 0;
}

bool MainRoad::keepsTooMany() const {
  return waiting_.size() >= kMostWaitingPages * (options_.windowEvents + options_.pageEvents);
}

void MainRoad::enter(outbox::Page& page) {
  std::vector<ItemPtr> items;
  items.reserve(page.rows.size());
  for (Row& row : page.rows) {
    if (auto item = itemToSend(row)) items.push_back(std::move(item));
  }
  const std::size_t passed = page.rows.size() - items.size();
  unsettled_.addPage(page.after, std::move(items), passed);
}

/// Nothing when no message can be made of it, or relays have ended over it: then it is parked.
ItemPtr MainRoad::itemToSend(Row& row) {
  if (suspicion_.isSuspect(row.id)) {
    base::log.error("event {} is parked: relays have ended while they handled it", row.id);
    parking_.park(parkedAs(row), Reason::Suspect,
                  outbox::kCrashesToSuspect + outbox::kDeathsToBlame);
    ++counters_.parked;
    return nullptr;
  }
  suspicion_.handle(row.id);
  auto made = itemFrom(row);
  if (auto* item = std::get_if<ItemPtr>(&made)) return std::move(*item);
  base::log.error("event {} is parked, it cannot be published: {}", row.id,
                  std::get<amqp::Problem>(made).detail);
  parking_.park(parkedAs(row), Reason::Invalid, 0);
  ++counters_.parked;
  suspicion_.settled(row.id);
  return nullptr;
}

bool MainRoad::maySend() {
  while (unsettled_.hasReady() && settleUnsent()) {
  }
  return unsettled_.hasReady() && window_.roomFor(unsettled_.ready().bytes) &&
         suspicion_.mayHandle(unsettled_.ready().id);
}

void MainRoad::sendBurst() {
  const Boot now = clock_.boot();
  channel_->beginBurst();
  for (std::size_t i = 0; i < kBurst && maySend(); ++i) sendNext(now);
  channel_->endBurst();
  PILLION_FAILPOINT("relay.published");
}

void MainRoad::readmit() {
  if (!waiting_.empty() && !parking_.following()) {
    unsettled_.putBack(std::exchange(waiting_, {}));
  }
}

/// Some are not to be sent now, so that they overtake nobody; or never again by us.
bool MainRoad::settleUnsent() {
  const Item& next = unsettled_.ready();
  if (next.expiresAt && *next.expiresAt <= clock_.wall()) {
    ++expiredUnsaid_;
  } else {
    switch (parking_.before(next)) {
      case Parking::Before::Send:
        return false;
      case Parking::Before::Wait:
        suspicion_.putDown(next.id);
        waiting_.push_back(unsettled_.take());
        return true;
      case Parking::Before::Park:
        parking_.parkUnsent(next);
        ++counters_.parked;
        break;
      case Parking::Before::Settled:
        break;
    }
  }
  suspicion_.settled(next.id);
  unsettled_.settle(unsettled_.take());
  return true;
}

void MainRoad::sendNext(Boot now) {
  const Item& next = unsettled_.ready();
  suspicion_.handle(next.id);
  try {
    const std::uint64_t tag = channel_->publish(Road::Main, next.message);
    window_.sent(next.bytes);
    tracker_.sent(tag, unsettled_.take(), now);
  } catch (const amqp::MessageUnsendable&) {
    leave(unsettled_.take(), Reason::Refused);
    throw;
  }
  PILLION_FAILPOINT("relay.publishing");
}

/// Once for all of a turn, of which there may be many.
void MainRoad::sayExpired() {
  if (expiredUnsaid_ == 0) return;
  counters_.expired += expiredUnsaid_;
  base::log.info("{} events had expired before it was their turn; they are not published",
                 std::exchange(expiredUnsaid_, 0));
}

void MainRoad::confirmed(const amqp::Confirm& confirm) {
  window_.confirmed(clock_.boot());
  tracker_.confirmed(confirm, [this](Verdict verdict, ItemPtr item) {
    window_.settled(item->bytes);
    settle(verdict, std::move(item));
  });
}

void MainRoad::returned(const amqp::Returned& returned) {
  tracker_.returned([&](const ItemPtr& item) { return item->id == returned.outboxId; });
}

void MainRoad::settle(Verdict verdict, ItemPtr item) {
  switch (verdict) {
    case Verdict::Nacked:
      ++counters_.nacked;
      // A channel that has met a quorum queue without a leader goes on refusing its messages.
      channelIsStale_ |= parking_.types().recoveredLately(item->message.type, clock_.boot());
      leave(std::move(item), Reason::Nacked);
      return;
    case Verdict::Unroutable:
      ++counters_.unroutable;
      if (options_.unroutable == UnroutablePolicy::Park) {
        leave(std::move(item), Reason::Unroutable);
        return;
      }
      ++counters_.dropped;
      if (droppedTypes_.insert(item->message.type).second) {
        base::log.warn("no queue is bound for events of type '{}'; they are dropped",
                       item->message.type);
      }
      break;
    case Verdict::Routed:
      ++counters_.published;
      break;
  }
  suspicion_.settled(item->id);
  unsettled_.settle(std::move(item));
}

/// To the second road, by way of the parked events.
void MainRoad::leave(ItemPtr item, Reason reason) {
  if (reason == Reason::Refused) {
    base::log.error("event {} is parked as refused: RabbitMQ closes the channel over it",
                    item->message.messageId);
  }
  parking_.park(parkedAs(*item), reason, 1);
  ++counters_.parked;
  suspicion_.settled(item->id);
  unsettled_.settle(std::move(item));
}

/// Over one of those in flight; nobody says which. When there was one only, it is that. Else those
/// that the broker seems to speak of leave the road, or all of them: the second one finds out.
void MainRoad::closed(const amqp::ChannelClosed& closed) {
  takeOut(closed);
  window_.reset(clock_.boot());
  channel_->reopen(Road::Main);  // last: when that fails, nothing is on its way out of here
}

void MainRoad::takeOut(const amqp::ChannelClosed& closed) {
  auto unknown = tracker_.takeAll();
  if (unknown.size() == 1) return leave(std::move(unknown.front()), reasonOf(closed));
  counters_.repeated += unknown.size();
  // Not of std::ranges: clang 14 does not compile that one of libstdc++ 12.
  const auto others = std::stable_partition(
      unknown.begin(), unknown.end(),
      [&](const ItemPtr& item) { return amqp::mentions(closed, item->message); });
  const auto mentioned = others == unknown.begin() ? unknown.end() : others;
  std::vector<ItemPtr> innocent(std::make_move_iterator(mentioned),
                                std::make_move_iterator(unknown.end()));
  unsettled_.putBack(std::move(innocent));
  for (auto item = unknown.begin(); item != mentioned; ++item) {
    leave(std::move(*item), Reason::Unconfirmed);
  }
}

template <typename Predicate>
void MainRoad::giveUp(const Predicate& which) {
  for (ItemPtr& item : tracker_.takeWhere(which)) {
    window_.settled(item->bytes);
    leave(std::move(item), Reason::Unconfirmed);
  }
}

/// What is in flight is unknown, and sent again.
void MainRoad::renewChannel() {
  channelIsStale_ = false;
  auto unknown = tracker_.takeAll();
  counters_.repeated += unknown.size();
  unsettled_.putBack(std::move(unknown));
  window_.reset(clock_.boot());
  channel_->reopen(Road::Main);
}

void MainRoad::requireProgress(Boot now) {
  if (channelIsStale_) renewChannel();
  if (tracker_.outstanding() == 0) return;
  const Boot sent = tracker_.oldestSent();
  window_.tryOthers(sent, now);
  if (window_.lags(sent, now) && tracker_.isOvertaken()) {
    // Before so many are out at a queue that hangs that the broker stops reading what we send.
    const std::string type = tracker_.oldest()->message.type;
    const auto isOfType = [&](const ItemPtr& item, Boot = {}) {
      return item->message.type == type;
    };
    if (tracker_.count(isOfType) >= kMostLate) giveUp(isOfType);
  }
  if (tracker_.outstanding() == 0 || !window_.overdue(tracker_.oldestSent(), now)) return;
  const std::chrono::milliseconds stall = options_.broker.stallTimeout;
  if (window_.alive(now)) {
    giveUp([&](const ItemPtr&, Boot when) { return when <= now - stall; });
    return;
  }
  stalled_ = tracker_.takeAll();
  const auto silent = std::chrono::duration_cast<std::chrono::seconds>(now - sent).count();
  throw BrokerError("RabbitMQ has confirmed nothing for " + std::to_string(silent) + " s");
}

}  // namespace pillion::relay
