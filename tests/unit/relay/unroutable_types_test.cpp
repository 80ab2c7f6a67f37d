#include "relay/unroutable_types.hpp"

#include <doctest/doctest.h>

using namespace std::chrono_literals;
using pillion::relay::UnroutableTypes;
using Boot = UnroutableTypes::Boot;

namespace {

constexpr Boot kNow = 100s;

}  // namespace

TEST_CASE("a type that is new here waits two thirds to all of the first interval, then is probed") {
  UnroutableTypes types(300ms, 1s);
  CHECK(types.empty());
  CHECK_FALSE(types.nextDue());
  types.add("t", kNow);
  CHECK(types.contains("t"));
  CHECK_FALSE(types.contains("u"));
  CHECK_FALSE(types.due(kNow + 199ms));
  const auto due = types.due(kNow + 300ms);
  REQUIRE(due);
  CHECK(due->type == "t");
  CHECK(due->limit == 1);
  REQUIRE(types.nextDue());
  CHECK(*types.nextDue() >= kNow + 200ms);
  CHECK(*types.nextDue() <= kNow + 300ms);
}

TEST_CASE("adding a type again does not put its probe off") {
  UnroutableTypes types(300ms, 1s);
  types.add("t", kNow);
  const auto before = types.nextDue();
  types.add("t", kNow + 10s);
  CHECK(types.nextDue() == before);
}

TEST_CASE("nothing is read while a probe is on its way") {
  UnroutableTypes types(300ms, 1s);
  types.add("t", kNow);
  types.reading("t", 1);
  CHECK_FALSE(types.due(kNow + 1h));
  CHECK_FALSE(types.nextDue());
}

TEST_CASE("after a routed probe the others follow at once, many at a time, until none is left") {
  UnroutableTypes types(300ms, 1s);
  types.add("t", kNow);
  types.reading("t", 1);
  types.routed("t");
  auto due = types.due(kNow);
  REQUIRE(due);
  CHECK(due->limit > 1);
  types.reading("t", 3);
  types.routed("t");
  types.routed("t");
  CHECK_FALSE(types.due(kNow));
  types.routed("t");
  CHECK(types.due(kNow));
  CHECK(types.contains("t"));
  types.reading("t", 0);
  CHECK_FALSE(types.contains("t"));
  CHECK(types.empty());
}

TEST_CASE("each returned probe makes the next wait longer, up to the most") {
  UnroutableTypes types(300ms, 1s);
  types.add("t", kNow);
  Boot now = kNow;
  Boot least = 200ms;
  for (int i = 0; i < 10; ++i) {
    types.reading("t", 1);
    types.returned("t", now);
    REQUIRE(types.nextDue());
    const Boot wait = *types.nextDue() - now;
    CHECK(wait >= std::min<Boot>(least, 666ms));
    CHECK(wait <= 1s);
    least *= 2;
    now += wait;
  }
}

TEST_CASE("one returned among several ends the draining, and counts once for the wait") {
  UnroutableTypes types(300ms, 10s);
  types.add("t", kNow);
  types.reading("t", 1);
  types.routed("t");
  types.reading("t", 4);
  types.routed("t");
  types.returned("t", kNow);
  types.returned("t", kNow);
  types.routed("t");
  CHECK_FALSE(types.due(kNow + 100ms));
  REQUIRE(types.nextDue());
  CHECK(*types.nextDue() <= kNow + 300ms);
  const auto due = types.due(kNow + 300ms);
  REQUIRE(due);
  CHECK(due->limit == 1);
}

TEST_CASE("types wait for themselves: one on its way does not hold up another") {
  UnroutableTypes types(300ms, 1s);
  types.add("a", kNow);
  types.add("b", kNow);
  types.reading("a", 1);
  const auto due = types.due(kNow + 1s);
  REQUIRE(due);
  CHECK(due->type == "b");
}
