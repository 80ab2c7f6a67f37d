#pragma once

#include <optional>
#include <vector>

#include "outbox/cursor.hpp"

namespace pillion::outbox {

/// What of a cursor is to be written, so that the database says what it says.
struct CursorWrites {
  std::optional<Position> main;  // where the relay is, and every lane that has joined it
  Lanes join = 0;                // lanes that are there, too, from now on
  std::vector<Position> apart;   // lanes that are elsewhere
};

/// What the database has of a relay's cursor. Usually all its lanes have joined it, and then one
/// row is written. A lane that has not moved since it was taken is not written: its row counts the
/// relays that ended before they moved it.
class WrittenCursor {
 public:
  /// Lanes that were taken with these positions.
  void took(const Cursor& lanes) { apart_.add(lanes); }
  [[nodiscard]] CursorWrites writesFor(const Cursor& cursor, Lanes given) const;
  void wrote(const CursorWrites& writes);
  void gave(Lanes lanes);

 private:
  [[nodiscard]] Lanes elsewhere(const Position& position) const;

  Lanes joined_ = 0;
  Cursor apart_;
};

}  // namespace pillion::outbox
