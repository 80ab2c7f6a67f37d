#include "outbox/cursor.hpp"

#include <doctest/doctest.h>

#include <pillion/error.hpp>

using pillion::outbox::Cursor;
using pillion::outbox::Lanes;
using pillion::outbox::Position;
using pillion::outbox::Snapshot;

TEST_CASE("a snapshot is read into its numbers and keeps its text") {
  const auto snapshot = Snapshot::parse("10:20:10,14,15");
  CHECK(snapshot.text == "10:20:10,14,15");
  CHECK(snapshot.xmin == 10);
  CHECK(snapshot.xmax == 20);
  CHECK(snapshot.inProgress == std::vector<std::uint64_t>{10, 14, 15});
  CHECK(snapshot.inProgressArray() == "{10,14,15}");
}

TEST_CASE("a snapshot without transactions in progress has an empty array") {
  const auto snapshot = Snapshot::parse("20:20:");
  CHECK(snapshot.inProgress.empty());
  CHECK(snapshot.inProgressArray() == "{}");
}

TEST_CASE("transaction ids of 64 bits are kept whole") {
  const auto snapshot = Snapshot::parse("4294967296:18446744073709551615:4294967297");
  CHECK(snapshot.xmin == 4294967296U);
  CHECK(snapshot.xmax == 18446744073709551615U);
  CHECK(snapshot.inProgressArray() == "{4294967297}");
}

TEST_CASE("a text of another form is an error") {
  for (const std::string text :
       {"", ":", "10", "10:20", "a:20:", "10:b:", "10:20:c", "10:20:10;14", "10:20:10,,14",
        "-1:20:", " 10:20:", "10:20:10 ", "10::", "18446744073709551616:1:"}) {
    CAPTURE(text);
    CHECK_THROWS_AS(Snapshot::parse(text), pillion::Error);
  }
}

TEST_CASE("a text with a comma too much is an error") {
  CHECK_THROWS_AS(Snapshot::parse("10:20:10,"), pillion::Error);
}

TEST_CASE("a position pages while it has a target") {
  Position position;
  position.done = Snapshot::parse("1:1:");
  CHECK_FALSE(position.paging());
  position.target = Snapshot::parse("2:2:");
  CHECK(position.paging());
}

namespace {

Position positionOf(Lanes lanes, const std::string& done, std::int64_t floor = 0) {
  Position position;
  position.lanes = lanes;
  position.done = Snapshot::parse(done);
  position.floor = position.targetFloor = floor;
  return position;
}

}  // namespace

TEST_CASE("lanes at one place become one position, with the lower floor; others stay apart") {
  Cursor cursor{{positionOf(0b0011, "5:5:", 70)}};
  cursor.add({{positionOf(0b0100, "5:5:", 30), positionOf(0b1000, "9:9:", 80)}});
  REQUIRE(cursor.positions.size() == 2);
  CHECK(cursor.positions[0].lanes == 0b0111);
  CHECK(cursor.positions[0].floor == 30);
  CHECK(cursor.positions[1].lanes == 0b1000);
  CHECK(cursor.lanes() == 0b1111);
}

TEST_CASE("paging lanes are at one place only when they are at the same id") {
  Position early = positionOf(0b01, "5:5:");
  early.target = Snapshot::parse("9:9:");
  early.lastId = 100;
  Position late = early;
  late.lanes = 0b10;
  late.lastId = 200;
  Cursor cursor{{early}};
  cursor.add({{late}});
  CHECK(cursor.positions.size() == 2);
  late.lanes = 0b100;
  cursor.add({{late}});
  CHECK(cursor.positions.size() == 2);
}

TEST_CASE("taking lanes splits positions and leaves none without lanes") {
  Cursor cursor{{positionOf(0b0011, "5:5:"), positionOf(0b1100, "9:9:")}};
  const Cursor taken = cursor.take(0b0111);
  CHECK(taken.lanes() == 0b0111);
  CHECK(taken.positions.size() == 2);
  REQUIRE(cursor.positions.size() == 1);
  CHECK(cursor.positions[0].lanes == 0b1000);
  CHECK(cursor.positions[0].done.text == "9:9:");
}

TEST_CASE("a set of all lanes is -1 to PostgreSQL, and the last lane alone its lowest bigint") {
  CHECK(pillion::outbox::lanesText(pillion::outbox::kAllLanes) == "-1");
  CHECK(pillion::outbox::lanesText(pillion::outbox::laneBit(63)) == "-9223372036854775808");
  CHECK(pillion::outbox::countLanes(pillion::outbox::kAllLanes) == 64);
}
