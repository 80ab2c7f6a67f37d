#include "outbox/written_cursor.hpp"

#include <doctest/doctest.h>

using pillion::outbox::Cursor;
using pillion::outbox::kAllLanes;
using pillion::outbox::Lanes;
using pillion::outbox::Position;
using pillion::outbox::Snapshot;
using pillion::outbox::WrittenCursor;

namespace {

Position at(int xid, Lanes lanes) {
  Position position;
  position.lanes = lanes;
  position.done = Snapshot::parse(std::to_string(xid) + ":" + std::to_string(xid) + ":");
  return position;
}

Cursor cursorOf(std::vector<Position> positions) {
  return {std::move(positions)};
}

/// With all lanes at 20, joined.
WrittenCursor joined() {
  WrittenCursor written;
  written.took(cursorOf({at(10, kAllLanes)}));
  written.wrote(written.writesFor(cursorOf({at(20, kAllLanes)}), 0));
  return written;
}

}  // namespace

TEST_CASE("lanes join once, and from then on the relay's position alone is written") {
  WrittenCursor written;
  written.took(cursorOf({at(10, kAllLanes)}));
  auto writes = written.writesFor(cursorOf({at(20, kAllLanes)}), 0);
  REQUIRE(writes.main);
  CHECK(writes.main->samePlace(at(20, 0)));
  CHECK(writes.join == kAllLanes);
  CHECK(writes.apart.empty());
  written.wrote(writes);
  writes = written.writesFor(cursorOf({at(30, kAllLanes)}), 0);
  REQUIRE(writes.main);
  CHECK(writes.main->samePlace(at(30, 0)));
  CHECK(writes.join == 0);
  CHECK(writes.apart.empty());
}

TEST_CASE("a lane that has not moved since it was taken is not written, wherever it is") {
  WrittenCursor written;
  written.took(cursorOf({at(10, 0b0111), at(20, 0b1000)}));
  auto writes = written.writesFor(cursorOf({at(10, 0b0111), at(21, 0b1000)}), 0);
  CHECK(writes.join == 0);
  REQUIRE(writes.apart.size() == 1);
  CHECK(writes.apart[0].lanes == 0b1000);
  written.wrote(writes);
  writes = written.writesFor(cursorOf({at(11, 0b0111), at(21, 0b1000)}), 0);
  CHECK(writes.join == 0b0111);
  CHECK(writes.apart.empty());
}

TEST_CASE("lanes that were taken over join the others when they have caught up, and not before") {
  WrittenCursor written;
  written.took(cursorOf({at(10, 0b0001)}));
  written.wrote(written.writesFor(cursorOf({at(20, 0b0001)}), 0));
  written.took(cursorOf({at(5, 0b1110)}));
  // More lanes are there, but the one that has joined says where the relay is.
  auto writes = written.writesFor(cursorOf({at(6, 0b1110), at(30, 0b0001)}), 0);
  REQUIRE(writes.main);
  CHECK(writes.main->samePlace(at(30, 0)));
  CHECK(writes.join == 0);
  REQUIRE(writes.apart.size() == 1);
  CHECK(writes.apart[0].lanes == 0b1110);
  written.wrote(writes);
  writes = written.writesFor(cursorOf({at(40, 0b1111)}), 0);
  CHECK(writes.join == 0b1110);
  CHECK(writes.apart.empty());
}

TEST_CASE("lanes that were given away and come back join anew") {
  WrittenCursor written = joined();
  auto writes = written.writesFor(cursorOf({at(30, ~Lanes{1})}), 1);
  REQUIRE(writes.main);
  CHECK(writes.join == 0);
  written.wrote(writes);
  written.gave(1);
  written.took(cursorOf({at(25, 1)}));
  writes = written.writesFor(cursorOf({at(40, kAllLanes)}), 0);
  CHECK(writes.join == 1);
}

TEST_CASE("a joined lane that goes elsewhere is written by itself") {
  WrittenCursor written = joined();
  auto writes = written.writesFor(cursorOf({at(30, ~Lanes{1}), at(20, 1)}), 0);
  REQUIRE(writes.main);
  CHECK(writes.main->samePlace(at(30, 0)));
  REQUIRE(writes.apart.size() == 1);
  CHECK(writes.apart[0].lanes == 1);
  written.wrote(writes);
  CHECK(written.writesFor(cursorOf({at(40, kAllLanes)}), 0).join == 1);
}

TEST_CASE("a joined lane of which a cursor says nothing stays where it is") {
  const WrittenCursor written = joined();
  const auto writes = written.writesFor(cursorOf({at(30, ~Lanes{1})}), 0);
  CHECK_FALSE(writes.main);
  CHECK(writes.join == 0);
  REQUIRE(writes.apart.size() == 1);
  CHECK(writes.apart[0].lanes == ~Lanes{1});
}

TEST_CASE("an empty cursor writes nothing") {
  const auto writes = WrittenCursor().writesFor({}, 0);
  CHECK_FALSE(writes.main);
  CHECK(writes.join == 0);
  CHECK(writes.apart.empty());
}
