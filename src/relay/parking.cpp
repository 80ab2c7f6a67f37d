#include "relay/parking.hpp"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <pillion/log.hpp>
#include <utility>
#include <variant>

namespace pillion::relay {
namespace {

constexpr std::size_t kKeysAtOnce = 100;
constexpr std::chrono::seconds kHeldCheck{1};

}  // namespace

Parking::Parking(outbox::EventLog& log, const RelayOptions& options, const base::Clock& clock)
    : log_(log),
      options_(options),
      clock_(clock),
      hold_{options.parked == ParkedPolicy::Hold, options.holdTypes},
      unroutable_(options.unroutableFirst, options.unroutableMost),
      refusedBackoff_(options.refusedFirst, options.refusedMost) {}

void Parking::addLanes(outbox::Lanes lanes) {
  const Boot now = clock_.boot();
  const outbox::ParkedSummary parked = log_.parkedSummary(lanes, hold_);
  for (const std::string& type : parked.unroutableTypes) unroutable_.add(type, now);
  if (parked.anyRefused && !refusedNext_) refusedNext_ = now + refusedBackoff_.next();
  for (const outbox::ParkedKey& key : parked.keys) {
    holdKey(key.key, key.lane, key.firstId);
    if (key.due) release(key.key);
  }
}

void Parking::dropLanes(outbox::Lanes lanes) {
  std::erase_if(heldKeys_, [&](const auto& entry) {
    const bool gone = (outbox::laneBit(entry.second.lane) & lanes) != 0;
    if (gone) dueKeys_.erase(entry.first);
    return gone;
  });
}

std::optional<std::string> Parking::reasonToPark(const Item& item) const {
  if (item.hasKey) {
    const auto held = heldKeys_.find(item.keyText());
    if (held != heldKeys_.end() && item.id > held->second.firstId) return "held";
  }
  if (unroutable_.contains(item.message.type)) return "unroutable";
  return std::nullopt;
}

void Parking::park(const Item& item, const std::string& reason, int attempts) {
  const Boot now = clock_.boot();
  changes_.park.push_back({item.id, reason, attempts});
  if (item.hasKey && (reason == "held" || hold_.holds(item.message.type))) {
    holdKey(item.keyText(), item.lane, item.id);
  }
  if (reason == "unroutable") unroutable_.add(item.message.type, now);
  if (reason == "refused" && !refusedNext_) refusedNext_ = now + refusedBackoff_.next();
}

bool Parking::mustGoBack(const Item& item) const {
  switch (item.readAs) {
    case ReadAs::Unroutable:
      return unroutable_.anyReturned(item.message.type);
    case ReadAs::Held:
      return heldKeys_.at(item.keyText()).anyCameBack;
    case ReadAs::Refused:
    case ReadAs::Logged:
      return false;
  }
  return false;
}

void Parking::goBack(const Item& item) {
  if (item.readAs == ReadAs::Unroutable) unroutable_.returned(item.message.type, clock_.boot());
  if (item.readAs == ReadAs::Held) leaveHeld(item, true);
}

void Parking::published(const Item& item) {
  if (item.readAs == ReadAs::Unroutable) unroutable_.routed(item.message.type);
  remove(item);
}

void Parking::expired(const Item& item) {
  if (item.readAs == ReadAs::Unroutable) unroutable_.gone(item.message.type);
  remove(item);
}

void Parking::remove(const Item& item) {
  changes_.unpark.push_back(item.id);
  switch (item.readAs) {
    case ReadAs::Held:
      leaveHeld(item, false);
      return;  // its followers were read with it
    case ReadAs::Refused:
      refusedBackoff_.reset();
      refusedNext_ = clock_.boot();
      break;
    case ReadAs::Unroutable:
    case ReadAs::Logged:
      break;
  }
  if (item.hasKey) release(item.keyText());
}

void Parking::cameBack(const Item& item, const std::string& reason) {
  const Boot now = clock_.boot();
  changes_.retried.push_back({item.id, reason, 1});
  switch (item.readAs) {
    case ReadAs::Unroutable:
      unroutable_.returned(item.message.type, now);
      break;
    case ReadAs::Held:
      leaveHeld(item, hold_.holds(item.message.type));
      break;
    case ReadAs::Refused:
      refusedNext_ = now + refusedBackoff_.next();
      break;
    case ReadAs::Logged:
      break;
  }
  if (reason == "unroutable") unroutable_.add(item.message.type, now);
  if (reason == "refused" && !refusedNext_) refusedNext_ = now + refusedBackoff_.next();
}

void Parking::holdKey(const std::string& key, int lane, std::int64_t id) {
  if (heldKeys_.empty()) nextHeldCheck_ = clock_.boot() + kHeldCheck;
  HeldKey& held = heldKeys_[key];
  held.lane = lane;
  held.firstId = std::min(held.firstId, id);
}

void Parking::leaveHeld(const Item& item, bool holdsOthers) {
  HeldKey& held = heldKeys_.at(item.keyText());
  held.anyCameBack = held.anyCameBack || holdsOthers;
  if (--held.onTheirWay > 0 || held.anyCameBack) return;
  dueKeys_.insert(item.keyText());  // until a read finds nothing more
}

void Parking::release(const std::string& key) {
  const auto held = heldKeys_.find(key);
  if (held != heldKeys_.end() && held->second.onTheirWay == 0) dueKeys_.insert(key);
}

/// What a key waits for may have been discarded by an operator. So some keys at a time are read,
/// though nothing was heard of them.
void Parking::checkHeldKeys(Boot now) {
  if (heldKeys_.empty() || now < nextHeldCheck_) return;
  nextHeldCheck_ = now + kHeldCheck;
  auto next = heldKeys_.upper_bound(lastChecked_);
  for (std::size_t i = std::min(kKeysAtOnce, heldKeys_.size()); i > 0; --i, ++next) {
    if (next == heldKeys_.end()) next = heldKeys_.begin();
    lastChecked_ = next->first;
    release(next->first);
  }
}

std::optional<Parking::Boot> Parking::nextDue() const {
  if (!dueKeys_.empty()) return Boot{0};
  std::optional<Boot> next = unroutable_.nextDue();
  const auto orAt = [&](Boot at) { next = next ? std::min(*next, at) : at; };
  if (refusedNext_) orAt(*refusedNext_);
  if (!heldKeys_.empty()) orAt(nextHeldCheck_);
  return next;
}

std::vector<ItemPtr> Parking::fetch(Boot now, outbox::Lanes lanes) {
  checkHeldKeys(now);
  if (!dueKeys_.empty()) return fetchHeld();
  if (const auto due = unroutable_.due(now)) return fetchUnroutable(*due, lanes);
  if (refusedNext_ && *refusedNext_ <= now) return fetchRefused(now, lanes);
  return {};
}

std::vector<ItemPtr> Parking::fetchUnroutable(const UnroutableTypes::Due& due,
                                              outbox::Lanes lanes) {
  auto items = itemsOf(log_.fetchParked(due.type, lanes, due.limit), ReadAs::Unroutable);
  // None that can be sent, but some that can not: those are set aside first, then it is asked
  // again.
  if (items.empty() && !changes_.retried.empty()) return {};
  unroutable_.reading(due.type, items.size());
  return items;
}

std::vector<ItemPtr> Parking::fetchHeld() {
  std::vector<std::string> keys;
  for (const std::string& key : dueKeys_) {
    keys.push_back(key);
    if (keys.size() == kKeysAtOnce) break;
  }
  const outbox::HeldRows read = log_.fetchHeld(keys, hold_);
  auto items = itemsOf(read.rows, ReadAs::Held);
  for (const ItemPtr& item : items) {
    HeldKey& held = heldKeys_.at(item->keyText());
    if (held.onTheirWay++ > 0) continue;
    held.anyCameBack = false;
    dueKeys_.erase(item->keyText());
  }
  if (read.cut || !changes_.retried.empty()) return items;
  for (const std::string& key : keys) {  // nothing waits there any more, unless behind another head
    if (dueKeys_.erase(key) > 0 && !read.headed.contains(key)) heldKeys_.erase(key);
  }
  return items;
}

std::vector<ItemPtr> Parking::fetchRefused(Boot now, outbox::Lanes lanes) {
  auto rows = log_.fetchRefused(lanes, refusedAfter_);
  if (rows.empty()) {
    const bool wasRound = std::exchange(refusedAfter_, 0) == 0;
    refusedNext_ = wasRound ? std::nullopt : std::optional(now + refusedBackoff_.next());
    return {};
  }
  refusedAfter_ = rows.front().id;
  refusedNext_.reset();  // while it is on its way
  auto items = itemsOf(std::move(rows), ReadAs::Refused);
  if (items.empty()) refusedNext_ = now;
  return items;
}

std::vector<ItemPtr> Parking::itemsOf(std::vector<Row> rows, ReadAs readAs) {
  std::vector<ItemPtr> items;
  items.reserve(rows.size());
  for (Row& row : rows) {
    const std::int64_t id = row.id;
    auto item = itemFrom(row);
    if (auto* ready = std::get_if<ItemPtr>(&item)) {
      (*ready)->readAs = readAs;
      items.push_back(std::move(*ready));
    } else {
      changes_.retried.push_back({id, std::get<amqp::Problem>(item).reason, 0});
    }
  }
  return items;
}

bool Parking::changed() const {
  return !changes_.park.empty() || !changes_.unpark.empty() || !changes_.retried.empty();
}

}  // namespace pillion::relay
