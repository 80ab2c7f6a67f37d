#include "inbox/handler_table.hpp"

#include <algorithm>

#include "event/topic_pattern.hpp"

namespace pillion::inbox {

std::string HandlerTable::unreachable(const std::vector<std::string>& bound) const {
  for (const auto& entry : handlers_) {
    const std::string& pattern = entry.first;
    const auto meets = [&](const std::string& other) { return patternsMeet(pattern, other); };
    if (std::ranges::none_of(bound, meets)) return pattern;
  }
  return "";
}

const Handler* HandlerTable::find(const std::string& type) const {
  const Handler* first = nullptr;
  for (const auto& [pattern, handler] : handlers_) {
    if (pattern == type) return &handler;
    if (first == nullptr && (pattern == "#" || matchesTopic(pattern, type))) first = &handler;
  }
  return first;
}

bool HandlerTable::usesTransaction(const std::string& type) const {
  if (outside_.empty()) return true;
  const Handler* handler = find(type);
  return std::ranges::none_of(
      outside_, [&](std::size_t index) { return &handlers_[index].second == handler; });
}

}  // namespace pillion::inbox
