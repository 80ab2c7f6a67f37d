#include "relay/unroutable_types.hpp"

#include <algorithm>
#include <utility>

namespace pillion::relay {
namespace {

constexpr std::size_t kDrainEvents = 200;

}  // namespace

void UnroutableTypes::add(const std::string& type, Boot now) {
  const auto [entry, isNew] = types_.try_emplace(type, Route{base::Backoff(first_, most_)});
  if (isNew) entry->second.next = now + entry->second.backoff.next();
}

std::optional<UnroutableTypes::Due> UnroutableTypes::due(Boot now) const {
  for (const auto& [type, route] : types_) {
    if (route.onTheirWay > 0) continue;
    if (route.open) return Due{type, kDrainEvents};
    if (route.next <= now) return Due{type, 1};
  }
  return std::nullopt;
}

std::optional<UnroutableTypes::Boot> UnroutableTypes::nextDue() const {
  std::optional<Boot> next;
  for (const auto& [type, route] : types_) {
    if (route.onTheirWay > 0) continue;
    const Boot at = route.open ? Boot{0} : route.next;
    next = next ? std::min(*next, at) : at;
  }
  return next;
}

void UnroutableTypes::reading(const std::string& type, std::size_t events) {
  const auto entry = types_.find(type);
  if (events == 0) {
    types_.erase(entry);
    return;
  }
  entry->second.onTheirWay = events;
  entry->second.anyReturned = false;
}

bool UnroutableTypes::anyReturned(const std::string& type) const {
  return types_.at(type).anyReturned;
}

void UnroutableTypes::routed(const std::string& type) {
  Route& route = types_.at(type);
  --route.onTheirWay;
  if (route.anyReturned) return;
  route.open = true;
  route.backoff.reset();
}

void UnroutableTypes::gone(const std::string& type) {
  --types_.at(type).onTheirWay;
}

void UnroutableTypes::returned(const std::string& type, Boot now) {
  Route& route = types_.at(type);
  --route.onTheirWay;
  route.open = false;
  if (!std::exchange(route.anyReturned, true)) route.next = now + route.backoff.next();
}

}  // namespace pillion::relay
