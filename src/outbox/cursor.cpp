#include "outbox/cursor.hpp"

#include <charconv>
#include <pillion/error.hpp>

namespace pillion::outbox {
namespace {

std::uint64_t takeNumber(std::string_view& text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{}) throw Error("not a pg_snapshot");
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return value;
}

void takeMark(std::string_view& text, char mark) {
  if (text.empty() || text.front() != mark) throw Error("not a pg_snapshot");
  text.remove_prefix(1);
}

}  // namespace

Snapshot Snapshot::parse(std::string_view text) {
  Snapshot snapshot;
  snapshot.text = text;
  snapshot.xmin = takeNumber(text);
  takeMark(text, ':');
  snapshot.xmax = takeNumber(text);
  takeMark(text, ':');
  while (!text.empty()) {
    snapshot.inProgress.push_back(takeNumber(text));
    if (text.empty()) break;
    takeMark(text, ',');
    if (text.empty()) throw Error("not a pg_snapshot");
  }
  return snapshot;
}

std::string Snapshot::inProgressArray() const {
  std::string array = "{";
  for (const std::uint64_t xid : inProgress) {
    if (array.size() > 1) array += ',';
    array += std::to_string(xid);
  }
  return array + '}';
}

}  // namespace pillion::outbox
