#include "outbox/cursor.hpp"

#include <doctest/doctest.h>

#include <pillion/error.hpp>

using pillion::outbox::Cursor;
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

TEST_CASE("a cursor pages while it has a target") {
  Cursor cursor;
  cursor.done = Snapshot::parse("1:1:");
  CHECK_FALSE(cursor.paging());
  cursor.target = Snapshot::parse("2:2:");
  CHECK(cursor.paging());
}
