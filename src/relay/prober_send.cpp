#include <algorithm>
#include <utility>

#include "base/failpoint.hpp"
#include "relay/prober.hpp"

// How the second road sends, and what the broker says of it.

namespace pillion::relay {
namespace {

using amqp::Road;
using outbox::Reason;
using As = ParkedPlace::As;

constexpr std::size_t kBurst = 64;  // messages per corked write

/// May the channel be closed over it, or hang? Then nothing else is to be in flight.
bool isRisky(const Item& item) {
  const Reason reason = item.parked->reason;
  return reason == Reason::Unconfirmed || reason == Reason::Forbidden || reason == Reason::Refused;
}

}  // namespace

bool Prober::maySend() {
  if (channel_ == nullptr) return false;
  while (unsettled_.hasReady() && settleUnsent(unsettled_.ready())) {
  }
  if (!unsettled_.hasReady()) return false;
  const Item& next = unsettled_.ready();
  return window_.roomFor(next.bytes) && suspicion_.mayHandle(next.id) &&
         parking_.types().roomFor(next.message.type) &&
         !(isRisky(next) && tracker_.outstanding() > 0);
}

void Prober::sendBurst() {
  const Boot now = clock_.boot();
  if (!std::exchange(channelIsOpen_, true)) channel_->reopen(Road::Second);
  channel_->beginBurst();
  for (std::size_t i = 0; i < kBurst && maySend(); ++i) sendNext(now);
  channel_->endBurst();
}

bool Prober::settleUnsent(const Item& next) {
  if (next.expiresAt && *next.expiresAt <= clock_.wall()) {
    ++counters_.expired;
    gone(next);
  } else if (mustStay(next)) {
    if (next.parked->holds) keepKey(next);
  } else {
    return false;
  }
  ItemPtr item = unsettled_.take();
  ended(*item->parked, item->message.type);
  leaves(std::move(item));
  return true;
}

void Prober::leaves(ItemPtr item) {
  suspicion_.settled(item->id);
  onRoad_.erase(item->parked->seq);
  unsettled_.settle(std::move(item));
}

/// It is parked no longer. When the pass has left alone what waited for it, it must leave alone
/// what comes behind as well, which waits for nothing any more.
void Prober::gone(const Item& item) {
  parking_.settled(item);
  if (pass_ == Pass::None || !item.parked->holds) return;
  if (item.parked->as != As::Pass || left_.contains(item.message.type)) keepKey(item);
}

/// It stays parked; those behind it, which are read already, must not overtake it.
void Prober::keepKey(const Item& item) {
  if (!item.hasKey) return;
  auto& kept = keptKeys_.try_emplace(item.keyText(), item.parked->seq).first->second;
  kept = std::min(kept, item.parked->seq);
}

/// What was read with it, or since, has failed; it would overtake that.
bool Prober::mustStay(const Item& item) const {
  if (item.hasKey) {
    const auto kept = keptKeys_.find(item.keyText());
    if (kept != keptKeys_.end() && kept->second < item.parked->seq) return true;
  }
  if (item.parked->as != As::Pass) return false;
  const std::string& type = item.message.type;
  return left_.contains(type) ||
         (parking_.types().contains(type) && !parking_.types().isOpen(type));
}

void Prober::sendNext(Boot now) {
  const Item& next = unsettled_.ready();
  suspicion_.handle(next.id);
  if (isRisky(next)) window_.sendAlone(1);
  try {
    const std::uint64_t tag = channel_->publish(Road::Second, next.message);
    parking_.types().sent(next.message.type);
    window_.sent(next.bytes);
    tracker_.sent(tag, unsettled_.take(), now);
  } catch (const amqp::MessageUnsendable&) {
    failed(unsettled_.take(), Reason::Refused);
    throw;
  }
  PILLION_FAILPOINT("relay.probing");
}

void Prober::confirmed(const amqp::Confirm& confirm) {
  window_.confirmed(clock_.boot());
  tracker_.confirmed(confirm,
                     [this](Verdict verdict, ItemPtr item) { settle(verdict, std::move(item)); });
}

void Prober::returned(const amqp::Returned& returned) {
  tracker_.returned([&](const ItemPtr& item) { return item->id == returned.outboxId; });
}

void Prober::settle(Verdict verdict, ItemPtr item) {
  window_.settled(item->bytes);
  const bool drop = verdict == Verdict::Unroutable && options_.unroutable == UnroutablePolicy::Drop;
  if (verdict == Verdict::Unroutable) ++counters_.unroutable;
  if (verdict == Verdict::Nacked) ++counters_.nacked;
  parking_.types().ended(item->message.type, verdict == Verdict::Routed);
  if (verdict != Verdict::Routed && !drop) {
    failed(std::move(item), verdict == Verdict::Nacked ? Reason::Nacked : Reason::Unroutable);
    return;
  }
  ++(drop ? counters_.dropped : counters_.published);
  gone(*item);
  if (item->parked->as == As::Probe) {
    probed_.clear();
    parking_.types().open(item->message.type);
    passWanted_ = true;
  } else if (item->parked->as == As::Refused) {
    refusedBackoff_.reset();
    refusedOnItsWay_ = false;
    nextRefused_ = clock_.boot();
    passWanted_ = passWanted_ || item->parked->holds;
  }
  leaves(std::move(item));
}

void Prober::failed(ItemPtr item, Reason reason) {
  parking_.retried(*item, reason);
  if (item->hasKey && parking_.holds(item->keyText())) keepKey(*item);
  if (outbox::isOfType(reason)) left_.insert(item->message.type);
  ended(*item->parked, item->message.type);
  // A channel that has met a quorum queue without a leader goes on refusing its messages.
  if (outbox::alwaysHolds(reason) && std::exchange(channelIsOpen_, tracker_.outstanding() > 0)) {
    if (!channelIsOpen_) window_.reset(clock_.boot());
  }
  if (item->parked->as == As::Refused) nextRefused_ = clock_.boot() + refusedBackoff_.next();
  leaves(std::move(item));
}

void Prober::requireProgress(Boot now) {
  if (tracker_.outstanding() == 0 || !window_.overdue(tracker_.oldestSent(), now)) return;
  const bool alive = window_.alive(now);
  for (ItemPtr& item : tracker_.takeWhere(
           [&](const ItemPtr&, Boot sent) { return sent <= now - probeLimit(options_); })) {
    window_.settled(item->bytes);
    parking_.types().ended(item->message.type, false);
    failed(std::move(item), Reason::Unconfirmed);
  }
  if (!alive) useChannel(channel_);  // what is behind it may hang as well
}

void Prober::closed(const amqp::ChannelClosed& closed) {
  if (tracker_.outstanding() == 1) {
    ItemPtr item = std::move(tracker_.takeAll().front());
    parking_.types().ended(item->message.type, false);
    failed(std::move(item), reasonOf(closed));
    useChannel(channel_);
    return;
  }
  // Those that the broker seems to speak of go first, alone; the rest is not to wait for them.
  auto unknown = tracker_.takeAll();
  const auto others = std::stable_partition(
      unknown.begin(), unknown.end(),
      [&](const ItemPtr& item) { return amqp::mentions(closed, item->message); });
  const auto mentioned = static_cast<std::size_t>(others - unknown.begin());
  for (const ItemPtr& item : unknown) parking_.types().ended(item->message.type, false);
  counters_.repeated += unknown.size();
  const std::size_t alone = mentioned > 0 ? mentioned : unknown.size();
  unsettled_.putBack(std::move(unknown));
  useChannel(channel_);
  window_.sendAlone(alone);
}

}  // namespace pillion::relay
