#include "outbox/cursor.hpp"

#include <algorithm>
#include <bit>
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

int countLanes(Lanes lanes) {
  return std::popcount(lanes);
}

std::string lanesText(Lanes lanes) {
  return std::to_string(static_cast<std::int64_t>(lanes));
}

bool Position::samePlace(const Position& other) const {
  return done == other.done && target == other.target && (!paging() || lastId == other.lastId);
}

Lanes Cursor::lanes() const {
  Lanes all = 0;
  for (const Position& position : positions) all |= position.lanes;
  return all;
}

void Cursor::add(const Cursor& other) {
  for (const Position& position : other.positions) {
    const auto same = std::ranges::find_if(
        positions, [&](const Position& mine) { return mine.samePlace(position); });
    if (same == positions.end()) {
      positions.push_back(position);
      continue;
    }
    same->lanes |= position.lanes;
    same->floor = std::min(same->floor, position.floor);
    same->targetFloor = std::min(same->targetFloor, position.targetFloor);
  }
}

Cursor Cursor::take(Lanes lanes) {
  Cursor taken;
  for (Position& position : positions) {
    if ((position.lanes & lanes) == 0) continue;
    taken.positions.push_back(position);
    taken.positions.back().lanes &= lanes;
    position.lanes &= ~lanes;
  }
  std::erase_if(positions, [](const Position& position) { return position.lanes == 0; });
  return taken;
}

}  // namespace pillion::outbox
