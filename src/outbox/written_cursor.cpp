#include "outbox/written_cursor.hpp"

#include <algorithm>
#include <utility>

namespace pillion::outbox {

/// Which lanes of a position the database does not have there.
Lanes WrittenCursor::elsewhere(const Position& position) const {
  Lanes lanes = position.lanes;
  for (const Position& own : apart_.positions) {
    if (own.samePlace(position)) lanes &= ~own.lanes;
  }
  return lanes;
}

CursorWrites WrittenCursor::writesFor(const Cursor& cursor, Lanes given) const {
  CursorWrites writes;
  const auto& positions = cursor.positions;
  auto main = std::ranges::max_element(positions, {}, [&](const Position& position) {
    return std::pair(countLanes(position.lanes & joined_), countLanes(position.lanes));
  });
  // A joined lane of which nothing is said must not move with the others.
  if ((joined_ & ~cursor.lanes() & ~given) != 0) main = positions.end();
  if (main != positions.end()) {
    writes.main = *main;
    writes.join = elsewhere(*main) & ~joined_;
  }
  for (auto position = positions.begin(); position != positions.end(); ++position) {
    if (position == main) continue;
    Position moved = *position;
    moved.lanes = elsewhere(*position);
    if (moved.lanes != 0) writes.apart.push_back(std::move(moved));
  }
  return writes;
}

void WrittenCursor::wrote(const CursorWrites& writes) {
  apart_.take(writes.join);
  joined_ |= writes.join;
  for (const Position& position : writes.apart) {
    gave(position.lanes);
    apart_.add({{position}});
  }
}

void WrittenCursor::gave(Lanes lanes) {
  joined_ &= ~lanes;
  apart_.take(lanes);
}

}  // namespace pillion::outbox
