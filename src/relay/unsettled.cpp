#include "relay/unsettled.hpp"

#include <algorithm>
#include <functional>
#include <iterator>
#include <utility>

#include "event/timestamp.hpp"

namespace pillion::relay {
namespace {

/// A lane of an even flow has some dozens. One that has drained to the second is read again before
/// it stands still.
constexpr std::size_t kClogged = 64;
constexpr std::size_t kDrained = 16;

}  // namespace

std::variant<ItemPtr, amqp::Problem> itemFrom(Row& row) {
  auto item = std::make_unique<Item>();
  item->id = row.id;
  item->lane = row.lane;
  item->hasKey = !row.key.empty();
  // A collision makes two keys wait for each other, which costs time and breaks nothing.
  if (item->hasKey) item->key = std::hash<std::string>{}(row.key);
  item->bytes = row.payload.size();
  auto message = amqp::messageFrom(std::move(row));
  if (auto* problem = std::get_if<amqp::Problem>(&message)) return std::move(*problem);
  item->message = std::move(std::get<amqp::Message>(message));
  const std::string& expires = item->message.attributes->expiresAt;
  if (!expires.empty()) item->expiresAt = fromRfc3339(expires);
  return item;
}

void Unsettled::addPage(const outbox::Cursor& after, std::vector<ItemPtr> items,
                        std::size_t passed) {
  fetched_.take(after.lanes());
  fetched_.add(after);
  // The count comes first: a page without unsettled events is complete, and its cursor may move.
  pages_.push_back(LoadedPage{fetched_, items.size(), items.size() + passed > 0});
  LoadedPage* page = &pages_.back();
  for (ItemPtr& item : items) {
    item->page = page;
    enter(std::move(item));
  }
  if (page->unsettled == 0) complete(page);
}

void Unsettled::addLanes(const outbox::Cursor& claimed) {
  fetched_.add(claimed);
  settledUpTo_.add(claimed);
  for (LoadedPage& page : pages_) page.after.add(claimed);
}

outbox::Lanes Unsettled::busyLanes() const {
  outbox::Lanes busy = 0;
  for (int lane = 0; lane < outbox::kLanes; ++lane) {
    if (ofLane_[static_cast<std::size_t>(lane)] > 0) busy |= outbox::laneBit(lane);
  }
  return busy;
}

outbox::Cursor Unsettled::takeLanes(outbox::Lanes idle) {
  settledUpTo_.take(idle);
  for (LoadedPage& page : pages_) page.after.take(idle);
  return fetched_.take(idle);
}

void Unsettled::addParked(ItemPtr item) {
  enter(std::move(item));
}

void Unsettled::enter(ItemPtr item) {
  count(*item, true);
  if (!item->hasKey) {
    ready_.push_back(std::move(item));
    return;
  }
  const auto [last, isFirst] = lastOfKey_.try_emplace(item->key, item.get());
  if (isFirst) {
    ready_.push_back(std::move(item));
    return;
  }
  Item* before = std::exchange(last->second, item.get());
  before->nextOfKey = std::move(item);
}

void Unsettled::count(const Item& item, bool more) {
  const outbox::Lanes lane = outbox::laneBit(item.lane);
  std::size_t& ofLane = ofLane_[static_cast<std::size_t>(item.lane)];
  const std::size_t before = ofLane;
  more ? ++ofLane : --ofLane;
  more ? ++events_ : --events_;
  more ? bytes_ += item.bytes : bytes_ -= item.bytes;
  if ((clogged_ & lane) != 0) cloggedEvents_ -= before;
  if (ofLane > kClogged) clogged_ |= lane;
  if (ofLane <= kDrained) clogged_ &= ~lane;
  if ((clogged_ & lane) != 0) cloggedEvents_ += ofLane;
}

ItemPtr Unsettled::take() {
  ItemPtr item = std::move(ready_.front());
  ready_.pop_front();
  return item;
}

void Unsettled::settle(ItemPtr item) {
  count(*item, false);
  releaseKey(*item);
  if (item->page != nullptr && --item->page->unsettled == 0) complete(item->page);
}

void Unsettled::releaseKey(Item& item) {
  if (!item.hasKey) return;
  if (item.nextOfKey) {
    ready_.push_back(std::move(item.nextOfKey));
  } else {
    lastOfKey_.erase(item.key);
  }
}

void Unsettled::putBack(std::vector<ItemPtr> items) {
  for (auto item = items.rbegin(); item != items.rend(); ++item) {
    ready_.push_front(std::move(*item));
  }
}

void Unsettled::complete(LoadedPage* page) {
  const auto done = std::ranges::find_if(pages_, [&](auto& other) { return &other == page; });
  if (done == pages_.begin()) {
    settledUpTo_ = std::move(page->after);
    moved_ = std::max(moved_, page->hadEvents ? Moved::PastEvents : Moved::WithTime);
  } else {
    // Behind a page that is stuck, complete ones do not pile up.
    LoadedPage& before = *std::prev(done);
    before.after = std::move(page->after);
    before.hadEvents = before.hadEvents || page->hadEvents;
  }
  pages_.erase(done);
}

}  // namespace pillion::relay
