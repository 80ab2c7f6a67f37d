#include "relay/pipeline.hpp"

#include <algorithm>
#include <functional>
#include <iterator>
#include <utility>

#include "event/timestamp.hpp"

namespace pillion::relay {

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

void Pipeline::addPage(const outbox::Cursor& after, std::vector<ItemPtr> items,
                       std::size_t passed) {
  fetched_ = after;
  // The count comes first: a page without unsettled events is complete, and its cursor may move.
  pages_.push_back(LoadedPage{after, items.size(), items.size() + passed > 0});
  LoadedPage* page = &pages_.back();
  for (ItemPtr& item : items) {
    item->page = page;
    enter(std::move(item));
  }
  if (page->unsettled == 0) complete(page);
}

void Pipeline::addLanes(const outbox::Cursor& claimed) {
  fetched_.add(claimed);
  confirmed_.add(claimed);
  for (LoadedPage& page : pages_) page.after.add(claimed);
}

outbox::Lanes Pipeline::idleLanes() const {
  outbox::Lanes idle = fetched_.lanes();
  for (int lane = 0; lane < outbox::kLanes; ++lane) {
    if (unsettledOfLane_[static_cast<std::size_t>(lane)] > 0) idle &= ~outbox::laneBit(lane);
  }
  return idle;
}

outbox::Cursor Pipeline::takeLanes(outbox::Lanes idle) {
  confirmed_.take(idle);
  for (LoadedPage& page : pages_) page.after.take(idle);
  return fetched_.take(idle);
}

void Pipeline::addParked(ItemPtr item) {
  enter(std::move(item));
}

void Pipeline::enter(ItemPtr item) {
  ++unsettledEvents_;
  unsettledBytes_ += item->bytes;
  ++unsettledOfLane_[static_cast<std::size_t>(item->lane)];
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

ItemPtr Pipeline::take() {
  ItemPtr item = std::move(ready_.front());
  ready_.pop_front();
  return item;
}

void Pipeline::settle(ItemPtr item) {
  --unsettledEvents_;
  unsettledBytes_ -= item->bytes;
  --unsettledOfLane_[static_cast<std::size_t>(item->lane)];
  releaseKey(*item);
  if (item->page != nullptr && --item->page->unsettled == 0) complete(item->page);
}

void Pipeline::releaseKey(Item& item) {
  if (!item.hasKey) return;
  if (item.nextOfKey) {
    ready_.push_back(std::move(item.nextOfKey));
  } else {
    lastOfKey_.erase(item.key);
  }
}

void Pipeline::putBack(std::vector<ItemPtr> items) {
  for (auto item = items.rbegin(); item != items.rend(); ++item) {
    ready_.push_front(std::move(*item));
  }
}

void Pipeline::complete(LoadedPage* page) {
  const auto done = std::ranges::find_if(pages_, [&](auto& other) { return &other == page; });
  if (done == pages_.begin()) {
    confirmed_ = std::move(page->after);
    confirmedMoved_ = confirmedMoved_ || page->hadEvents;
  } else {
    // Behind a page that is stuck, complete ones do not pile up.
    LoadedPage& before = *std::prev(done);
    before.after = std::move(page->after);
    before.hadEvents = before.hadEvents || page->hadEvents;
  }
  pages_.erase(done);
}

}  // namespace pillion::relay
