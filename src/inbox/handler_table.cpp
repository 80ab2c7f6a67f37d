#include "inbox/handler_table.hpp"

#include "event/topic_pattern.hpp"

namespace pillion::inbox {

const Handler* HandlerTable::find(const std::string& type) const {
  const Handler* first = nullptr;
  for (const auto& [pattern, handler] : handlers_) {
    if (pattern == type) return &handler;
    if (first == nullptr && (pattern == "#" || matchesTopic(pattern, type))) first = &handler;
  }
  return first;
}

}  // namespace pillion::inbox
