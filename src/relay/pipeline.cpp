#include "relay/pipeline.hpp"

#include <functional>
#include <utility>

namespace pillion::relay {

std::variant<ItemPtr, amqp::Problem> itemFrom(Row&& row) {
  auto item = std::make_unique<Item>();
  item->id = row.id;
  item->hasKey = !row.key.empty();
  // A collision makes two keys wait for each other, which costs time and breaks nothing.
  if (item->hasKey) item->key = std::hash<std::string>{}(row.key);
  item->bytes = row.payload.size();
  auto message = amqp::messageFrom(std::move(row));
  if (auto* problem = std::get_if<amqp::Problem>(&message)) return std::move(*problem);
  item->message = std::move(std::get<amqp::Message>(message));
  return item;
}

void Pipeline::addPage(const outbox::Cursor& after, std::vector<ItemPtr> items,
                       std::size_t passed) {
  fetched_ = after;
  if (items.empty() && !pages_.empty()) {
    pages_.back().after = after;  // empty pages do not pile up behind a stuck one
    pages_.back().hadEvents = pages_.back().hadEvents || passed > 0;
    return;
  }
  // The count comes first: a page without unsettled events is complete, and its cursor may be
  // moved.
  pages_.push_back(Page{after, items.size(), items.size() + passed > 0});
  const std::uint64_t number = firstPage_ + pages_.size() - 1;
  for (ItemPtr& item : items) {
    item->page = number;
    enter(std::move(item));
  }
  advance();
}

void Pipeline::addParked(ItemPtr item) {
  item->wasParked = true;
  enter(std::move(item));
}

void Pipeline::enter(ItemPtr item) {
  ++unsettledEvents_;
  unsettledBytes_ += item->bytes;
  if (!item->hasKey) {
    ready_.push_back(std::move(item));
    return;
  }
  const auto [line, first] = behind_.try_emplace(item->key);
  if (first) {
    ready_.push_back(std::move(item));
  } else {
    line->second.push_back(std::move(item));
  }
}

ItemPtr Pipeline::take() {
  ItemPtr item = std::move(ready_.front());
  ready_.pop_front();
  return item;
}

void Pipeline::settle(ItemPtr item) {
  --unsettledEvents_;
  unsettledBytes_ -= item->bytes;
  releaseKey(*item);
  if (item->wasParked) return;
  --pages_[item->page - firstPage_].unsettled;
  advance();
}

void Pipeline::releaseKey(const Item& item) {
  if (!item.hasKey) return;
  const auto line = behind_.find(item.key);
  if (line->second.empty()) {
    behind_.erase(line);
    return;
  }
  ready_.push_back(std::move(line->second.front()));
  line->second.pop_front();
}

void Pipeline::putBack(std::vector<ItemPtr> items) {
  for (auto item = items.rbegin(); item != items.rend(); ++item) {
    ready_.push_front(std::move(*item));
  }
}

void Pipeline::advance() {
  while (!pages_.empty() && pages_.front().unsettled == 0) {
    confirmed_ = pages_.front().after;
    confirmedMoved_ = confirmedMoved_ || pages_.front().hadEvents;
    pages_.pop_front();
    ++firstPage_;
  }
}

}  // namespace pillion::relay
