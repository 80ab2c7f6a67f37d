#include "relay/parking.hpp"

#include <algorithm>
#include <iterator>

#include "base/log_line.hpp"
#include "event/topic_pattern.hpp"

namespace pillion::relay {

using outbox::Reason;

namespace {

constexpr int kForbidden = 403;  // AMQP 0-9-1, section 1.2: access-refused
constexpr std::chrono::minutes kRemindEvery{5};
constexpr std::size_t kNamedTypes = 5;

const char* explained(Reason reason) {
  switch (reason) {
    case Reason::Unroutable:
      return "no queue is bound for it";
    case Reason::Nacked:
      return "a queue refuses it: is it full?";
    case Reason::Unconfirmed:
      return "RabbitMQ does not confirm it: has its queue no majority, or closes it the channel?";
    case Reason::Forbidden:
      return "the user may not write its routing key";
    default:
      return "";
  }
}

}  // namespace

Reason reasonOf(const amqp::ChannelClosed& closed) {
  return closed.replyCode == kForbidden ? Reason::Forbidden : Reason::Refused;
}

bool HoldPolicy::holds(const std::string& type) const {
  return everything || std::ranges::any_of(types, [&](const std::string& pattern) {
           return matchesTopic(pattern, type);
         });
}

Parking::Parking(const RelayOptions& options, const base::Clock& clock, base::Random& random)
    : clock_(clock),
      policy_{options.parked == ParkedPolicy::Hold, options.holdTypes},
      types_(options.probeFirst, options.probeMost, random) {}

void Parking::addLanes(outbox::ParkedSummary parked) {
  for (const auto& type : parked.types) {
    if (!types_.contains(type.name)) noteSick(type.name, type.reason);
  }
  for (auto& key : parked.keys) {
    keys_[std::move(key.key)] = {key.lane, key.firstId, key.events, ++serial_};
  }
  if (!parked.keys.empty()) ++movable_;
  anyRefused_ = anyRefused_ || parked.anyRefused;
  std::ranges::copy(parked.ahead, std::back_inserter(ahead_));
  std::ranges::sort(ahead_);
}

void Parking::dropLanes(outbox::Lanes lanes) {
  std::erase_if(
      keys_, [&](const auto& entry) { return (outbox::laneBit(entry.second.lane) & lanes) != 0; });
}

const Parking::HeldKey* Parking::holding(const Item& item) const {
  if (!item.hasKey || keys_.empty()) return nullptr;
  const auto held = keys_.find(item.keyText());
  return held != keys_.end() && item.id > held->second.firstId ? &held->second : nullptr;
}

Parking::Before Parking::before(const Item& item) const {
  if (!ahead_.empty() && std::ranges::binary_search(ahead_, item.id)) return Before::Settled;
  if (holding(item) != nullptr) return following_ ? Before::Wait : Before::Park;
  if (!types_.contains(item.message.type)) return Before::Send;
  return following_ && types_.isOpen(item.message.type) ? Before::Wait : Before::Park;
}

void Parking::parkUnsent(const Item& item) {
  const Reason reason =
      holding(item) != nullptr ? Reason::Held : types_.reasonOf(item.message.type);
  if (reason == Reason::Held || types_.isOpen(item.message.type)) ++movable_;
  types_.parked(item.message.type);
  const bool holds = item.hasKey && holdsKey(reason, item.message.type);
  changes_.park.push_back({item.id, reason, 0, holds});
  if (holds) hold(item.keyText(), item.lane, item.id);
}

void Parking::park(const ParkedAs& event, Reason reason, int attempts) {
  const std::string type(event.type);
  const bool holds = !event.key.empty() && holdsKey(reason, type);
  changes_.park.push_back({event.id, reason, attempts, holds});
  if (holds) hold(std::string(event.key), event.lane, event.id);
  if (reason == Reason::Refused) anyRefused_ = true;
  if (!outbox::isOfType(reason)) return;
  noteSick(type, reason);
  types_.parked(type);
}

bool Parking::holdsKey(Reason reason, const std::string& type) const {
  return outbox::alwaysHolds(reason) || policy_.holds(type);
}

void Parking::hold(const std::string& key, int lane, std::int64_t id) {
  HeldKey& held = keys_.try_emplace(key, HeldKey{lane, id, 0, 0}).first->second;
  held.firstId = std::min(held.firstId, id);
  held.serial = ++serial_;
  ++held.events;
}

void Parking::unhold(const std::string& key) {
  const auto held = keys_.find(key);
  if (held == keys_.end()) return;
  held->second.serial = ++serial_;
  if (--held->second.events == 0) keys_.erase(held);
}

void Parking::settled(const Item& item) {
  changes_.settled.push_back(item.parked->seq);
  if (item.parked->holds) unhold(item.keyText());
}

void Parking::retried(const Item& item, Reason reason) {
  const std::string& type = item.message.type;
  const bool holds = item.hasKey && holdsKey(reason, type);
  changes_.retried.push_back({item.parked->seq, reason, holds, 1});
  otherKind_ = otherKind_ || holds != item.parked->holds ||
               outbox::isOfType(reason) != outbox::isOfType(item.parked->reason);
  if (holds && !item.parked->holds) hold(item.keyText(), item.lane, item.id);
  if (!holds && item.parked->holds) {
    ++movable_;
    unhold(item.keyText());
  }
  if (const auto held = holds ? keys_.find(item.keyText()) : keys_.end(); held != keys_.end()) {
    held->second.serial = ++serial_;
  }
  if (reason == Reason::Refused) anyRefused_ = true;
  if (outbox::isOfType(reason)) noteSick(type, reason);
}

void Parking::noteSick(const std::string& type, Reason reason) {
  const Boot now = clock_.boot();
  if (!types_.add(type, reason, now)) return;
  base::log.warn("events of type '{}' are parked as {}: {}; one is tried from time to time", type,
                 outbox::textOf(reason), explained(reason));
  if (nextReminder_ == Boot{0}) nextReminder_ = now + kRemindEvery;
}

void Parking::recovered(const std::string& type) {
  types_.healthy(type, clock_.boot());
  base::log.info("events of type '{}' are published again", type);
}

void Parking::remind(Boot now) {
  if (types_.empty()) nextReminder_ = Boot{0};
  if (nextReminder_ == Boot{0} || now < nextReminder_) return;
  nextReminder_ = now + kRemindEvery;
  std::string named;
  std::size_t count = 0;
  for (const std::string& type : types_.closed()) {
    if (++count > kNamedTypes) continue;
    named += (named.empty() ? "'" : ", '") + type + "' (";
    named.append(outbox::textOf(types_.reasonOf(type))) += ')';
  }
  if (count == 0) return;
  base::log.warn("events of {} types are still parked: {}{}", count, named,
                 count > kNamedTypes ? ", …" : "");
}

bool Parking::isHead(const std::string& key, const outbox::ParkedAnswer::Head& head) {
  if (!types_.contains(head.type)) return true;
  const Reason reason = types_.reasonOf(head.type);
  if (head.reason == reason) return false;
  const bool holds = holdsKey(reason, head.type);
  changes_.retried.push_back({head.seq, reason, holds, 0});
  otherKind_ = true;
  types_.parked(head.type);
  if (!holds) unhold(key);
  return !holds;
}

void Parking::giveUp(const outbox::ParkedRow& row, Reason reason) {
  changes_.retried.push_back({row.seq, reason, row.holds, 0});
  otherKind_ = true;
}

std::vector<std::string> Parking::someHeldKeys(std::size_t most) {
  std::vector<std::string> keys;
  auto next = keys_.find(lastLookedAfter_);
  for (std::size_t i = std::min(most, keys_.size()); i > 0; --i) {
    if (next != keys_.end()) ++next;
    if (next == keys_.end()) next = keys_.begin();
    keys.push_back(next->first);
  }
  if (!keys.empty()) lastLookedAfter_ = keys.back();
  return keys;
}

bool Parking::heldSince(const std::string& key, std::uint64_t askedAt) const {
  const auto held = keys_.find(key);
  return held != keys_.end() && held->second.serial <= askedAt;
}

}  // namespace pillion::relay
