#include "relay/parking.hpp"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <pillion/log.hpp>
#include <utility>
#include <variant>

namespace pillion::relay {
namespace {

constexpr std::size_t kKeysAtOnce = 100;

}  // namespace

Parking::Parking(outbox::EventLog& log, const RelayOptions& options, const base::Clock& clock)
    : log_(log),
      options_(options),
      clock_(clock),
      unroutable_(options.unroutableFirst, options.unroutableMost),
      refusedBackoff_(options.refusedFirst, options.refusedMost) {}

void Parking::addLanes(outbox::Lanes lanes) {
  const Boot now = clock_.boot();
  const outbox::ParkedSummary parked = log_.parkedSummary(lanes, holds());
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
    if (gone && entry.second.due) --dueKeys_;
    return gone;
  });
}

std::optional<std::string> Parking::reasonToPark(const Item& item) const {
  if (holds() && item.hasKey) {
    const auto held = heldKeys_.find(item.keyText());
    if (held != heldKeys_.end() && item.id > held->second.firstId) return "held";
  }
  if (unroutable_.contains(item.message.type)) return "unroutable";
  return std::nullopt;
}

void Parking::park(const Item& item, const std::string& reason, int attempts) {
  const Boot now = clock_.boot();
  changes_.park.push_back({item.id, reason, attempts});
  if (holds() && item.hasKey) holdKey(item.keyText(), item.lane, item.id);
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
  changes_.unpark.push_back(item.id);
  switch (item.readAs) {
    case ReadAs::Unroutable:
      unroutable_.routed(item.message.type);
      break;
    case ReadAs::Held:
      leaveHeld(item, false);
      return;  // its followers were read with it
    case ReadAs::Refused:
      refusedBackoff_.reset();
      refusedNext_ = clock_.boot();
      break;
    case ReadAs::Logged:
      break;
  }
  if (holds() && item.hasKey) release(item.keyText());
}

void Parking::cameBack(const Item& item, const std::string& reason) {
  const Boot now = clock_.boot();
  changes_.retried.push_back({item.id, reason, 1});
  switch (item.readAs) {
    case ReadAs::Unroutable:
      unroutable_.returned(item.message.type, now);
      break;
    case ReadAs::Held:
      leaveHeld(item, true);
      if (reason == "unroutable") unroutable_.add(item.message.type, now);
      break;
    case ReadAs::Refused:
      refusedNext_ = now + refusedBackoff_.next();
      break;
    case ReadAs::Logged:
      break;
  }
  if (reason == "refused" && !refusedNext_) refusedNext_ = now + refusedBackoff_.next();
}

void Parking::holdKey(const std::string& key, int lane, std::int64_t id) {
  HeldKey& held = heldKeys_[key];
  held.lane = lane;
  held.firstId = std::min(held.firstId, id);
}

void Parking::leaveHeld(const Item& item, bool cameBack) {
  HeldKey& held = heldKeys_.at(item.keyText());
  held.anyCameBack = held.anyCameBack || cameBack;
  if (--held.onTheirWay > 0 || held.anyCameBack) return;
  held.due = true;  // until a read finds nothing more
  ++dueKeys_;
}

void Parking::release(const std::string& key) {
  const auto held = heldKeys_.find(key);
  if (held == heldKeys_.end() || held->second.due || held->second.onTheirWay > 0) return;
  held->second.due = true;
  ++dueKeys_;
}

std::optional<Parking::Boot> Parking::nextDue() const {
  if (dueKeys_ > 0) return Boot{0};
  const auto probe = unroutable_.nextDue();
  if (probe && refusedNext_) return std::min(*probe, *refusedNext_);
  return probe ? probe : refusedNext_;
}

std::vector<ItemPtr> Parking::fetch(Boot now, outbox::Lanes lanes) {
  if (dueKeys_ > 0) return fetchHeld();
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
  for (const auto& [key, held] : heldKeys_) {
    if (held.due) keys.push_back(key);
    if (keys.size() == kKeysAtOnce) break;
  }
  const outbox::HeldRows read = log_.fetchHeld(keys, holds());
  auto items = itemsOf(read.rows, ReadAs::Held);
  for (const ItemPtr& item : items) {
    HeldKey& held = heldKeys_.at(item->keyText());
    if (held.onTheirWay++ > 0) continue;
    held.anyCameBack = false;
    held.due = false;
    --dueKeys_;
  }
  if (read.cut || !changes_.retried.empty()) return items;
  for (const std::string& key : keys) {  // nothing waits there any more, unless behind another head
    const auto held = heldKeys_.find(key);
    if (!held->second.due) continue;
    --dueKeys_;
    held->second.due = false;
    if (!read.headed.contains(key)) heldKeys_.erase(held);
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
    auto item = itemFrom(std::move(row));
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
