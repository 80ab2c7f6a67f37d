#include "relay/sick_types.hpp"

#include <doctest/doctest.h>

using namespace std::chrono_literals;
using pillion::outbox::Reason;
using pillion::relay::SickTypes;
using Boot = SickTypes::Boot;

namespace {

constexpr Boot kNow = 100s;

bool isDue(const SickTypes& types, Boot now) {
  return types.due(now) != nullptr;
}

}  // namespace

TEST_CASE("a type that is new here waits two thirds to all of the first interval, then is probed") {
  SickTypes types(300ms, 1s);
  CHECK(types.empty());
  CHECK_FALSE(types.nextDue());
  CHECK(types.add("t", Reason::Nacked, kNow));
  CHECK(types.contains("t"));
  CHECK_FALSE(types.contains("u"));
  CHECK(types.reasonOf("t") == Reason::Nacked);
  CHECK_FALSE(isDue(types, kNow + 199ms));
  REQUIRE(isDue(types, kNow + 300ms));
  CHECK(*types.due(kNow + 300ms) == "t");
  CHECK(*types.nextDue() >= kNow + 200ms);
  CHECK(*types.nextDue() <= kNow + 300ms);
}

TEST_CASE("a type that only may be at fault is probed at once, and then as any other") {
  SickTypes types(300ms, 1s);
  types.add("t", Reason::Unconfirmed, kNow);
  CHECK(isDue(types, kNow));
  types.probing("t");
  types.add("t", Reason::Unconfirmed, kNow);
  CHECK_FALSE(isDue(types, kNow + 199ms));
}

TEST_CASE("of many events that fail together only the first sets the time of the probe") {
  SickTypes types(300ms, 1s);
  CHECK(types.add("t", Reason::Nacked, kNow));
  const auto before = types.nextDue();
  CHECK_FALSE(types.add("t", Reason::Nacked, kNow + 10s));
  CHECK(types.nextDue() == before);
}

TEST_CASE("another reason is news, and becomes the reason of those that are parked from then on") {
  SickTypes types(300ms, 1s);
  types.add("t", Reason::Unroutable, kNow);
  CHECK(types.add("t", Reason::Nacked, kNow));
  CHECK(types.reasonOf("t") == Reason::Nacked);
}

TEST_CASE("while a probe is on its way there is no other of its type, but of other types") {
  SickTypes types(300ms, 1s);
  types.add("t", Reason::Nacked, kNow);
  types.probing("t");
  CHECK_FALSE(isDue(types, kNow + 1h));
  CHECK_FALSE(types.nextDue());
  types.add("u", Reason::Nacked, kNow);
  CHECK(*types.due(kNow + 1h) == "u");
}

TEST_CASE("the type that has waited longest is probed first") {
  SickTypes types(300ms, 1s);
  types.add("a", Reason::Nacked, kNow + 10s);
  types.add("b", Reason::Nacked, kNow);
  CHECK(*types.due(kNow + 1h) == "b");
}

TEST_CASE("probes that fail come less and less often, up to the longest pause") {
  SickTypes types(300ms, 1s);
  types.add("t", Reason::Unroutable, kNow);
  for (const Boot least : {Boot(400ms), Boot(667ms), Boot(666ms)}) {
    types.probing("t");
    types.add("t", Reason::Unroutable, kNow);
    CHECK(*types.nextDue() >= kNow + least - 1ms);
    CHECK(*types.nextDue() <= kNow + 1s);
  }
}

TEST_CASE("an open type is not probed, and sends as many at a time as have come through, and one") {
  SickTypes types(300ms, 1s);
  types.add("t", Reason::Nacked, kNow);
  types.probing("t");
  types.open("t");
  CHECK(types.isOpen("t"));
  CHECK(types.anyOpen());
  CHECK(types.closed().empty());
  CHECK_FALSE(isDue(types, kNow + 1h));
  CHECK(types.roomFor("t"));
  types.sent("t");
  CHECK_FALSE(types.roomFor("t"));
  types.ended("t", true);
  types.sent("t");
  CHECK(types.roomFor("t"));
  types.sent("t");
  CHECK_FALSE(types.roomFor("t"));
  CHECK(types.roomFor("another"));
}

TEST_CASE("a type that fails again while it is open keeps its pace, until it has proven itself") {
  SickTypes types(300ms, 10s);
  const auto failAfter = [&](int routed) {
    types.probing("t");
    types.open("t");
    for (int i = 0; i < routed; ++i) {
      types.sent("t");
      types.ended("t", true);
    }
    types.add("t", Reason::Nacked, kNow);
    return *types.nextDue() - kNow;
  };
  types.add("t", Reason::Nacked, kNow);
  CHECK(failAfter(10) >= 399ms);
  CHECK(failAfter(10) >= 799ms);
  CHECK(failAfter(1'000) <= 300ms);
}

TEST_CASE("a probe that finds no event means that the type is healthy, unless one came meanwhile") {
  SickTypes types(300ms, 1s);
  types.add("t", Reason::Nacked, kNow);
  types.probing("t");
  types.parked("t");
  CHECK_FALSE(types.foundNone("t", kNow));
  CHECK(isDue(types, kNow));
  types.probing("t");
  CHECK(types.foundNone("t", kNow));
  CHECK(types.empty());
}

TEST_CASE(
    "what is in flight of a type may be the oldest that is parked: it is not probed meanwhile") {
  SickTypes types(300ms, 1s);
  types.add("t", Reason::Nacked, kNow);
  types.probing("t");
  types.open("t");
  types.sent("t");
  types.add("t", Reason::Nacked, kNow);  // another one has failed
  CHECK_FALSE(isDue(types, kNow + 10s));
  CHECK_FALSE(types.nextDue().has_value());
  types.ended("t", true);
  CHECK(isDue(types, kNow + 10s));
}

TEST_CASE("a probe that says nothing of its type is followed by another soon") {
  SickTypes types(300ms, 1s);
  types.add("t", Reason::Unroutable, kNow);
  types.probing("t");
  types.inconclusive("t", kNow);
  CHECK_FALSE(isDue(types, kNow));  // it may meet the same
  CHECK(isDue(types, kNow + 100ms));
  types.inconclusive("unknown", kNow);
  CHECK_FALSE(types.contains("unknown"));
}

TEST_CASE("a type that is healthy is forgotten") {
  SickTypes types(300ms, 1s);
  types.add("t", Reason::Nacked, kNow);
  types.add("u", Reason::Nacked, kNow);
  types.open("u");
  CHECK(types.open() == std::vector<std::string>{"u"});
  CHECK(types.closed() == std::set<std::string>{"t"});
  CHECK_FALSE(types.recoveredLately("u", kNow));
  types.healthy("u", kNow);
  CHECK(types.recoveredLately("u", kNow + 1s));
  CHECK_FALSE(types.recoveredLately("u", kNow + 1min));
  CHECK_FALSE(types.anyOpen());
  CHECK_FALSE(types.contains("u"));
}
