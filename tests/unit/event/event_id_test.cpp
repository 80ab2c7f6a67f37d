#include "event/event_id.hpp"

#include <doctest/doctest.h>

#include <set>

#include "support/manual_clock.hpp"
#include "support/scripted_random.hpp"

using namespace pillion;

namespace {

using std::chrono::milliseconds;

std::chrono::system_clock::time_point at(std::int64_t sinceEpoch) {
  return std::chrono::system_clock::time_point(milliseconds(sinceEpoch));
}

}  // namespace

TEST_CASE(
    "an id has the shape of a UUID of version 7 and variant 10 whatever the random bits are") {
  for (const std::uint64_t bits : {std::uint64_t{0}, ~std::uint64_t{0}}) {
    test::FixedRandom random(bits);
    const std::string id = makeEventId(base::systemClock(), random);
    CAPTURE(id);
    CHECK(isUuid(id));
    CHECK(id[14] == '7');
    CHECK(id[19] == (bits == 0 ? '8' : 'b'));
    CHECK(normalizedUuid(id) == id);
  }
}

TEST_CASE("the first 48 bits are the clock's milliseconds, the rest is random") {
  test::ManualClock clock;
  clock.wallTime = at(0x0123'4567'89ab);
  test::FixedRandom random(0);
  CHECK(makeEventId(clock, random) == "01234567-89ab-7000-8000-000000000000");
  test::FixedRandom ones(~std::uint64_t{0});
  CHECK(makeEventId(clock, ones) == "01234567-89ab-7fff-bfff-ffffffffffff");
}

TEST_CASE("RFC 9562's example of version 7 is read as its time") {
  const auto time = timeOfEventId("017F22E2-79B0-7CC3-98C4-DC0C0C07398F");
  REQUIRE(time);
  CHECK(*time == at(1645557742000));
}

TEST_CASE("the time of an id is the clock's, to the millisecond") {
  test::ManualClock clock;
  clock.wallTime += std::chrono::microseconds(1'234'999);
  const auto time = timeOfEventId(makeEventId(clock));
  REQUIRE(time);
  CHECK(*time == std::chrono::floor<milliseconds>(clock.wallTime));
}

TEST_CASE("twenty thousand ids of one millisecond are different") {
  const test::ManualClock clock;
  std::set<std::string> ids;
  test::SeededRandom random(7);
  for (int i = 0; i < 20'000; ++i) ids.insert(makeEventId(clock, random));
  CHECK(ids.size() == 20'000);
}

TEST_CASE("ids of the system's clock and random source are different") {
  std::set<std::string> ids;
  for (int i = 0; i < 2'000; ++i) ids.insert(makeEventId());
  CHECK(ids.size() == 2'000);
}

TEST_CASE("a UUID is 36 characters of hexadecimal digits and dashes in their places, in any case") {
  CHECK(isUuid("01234567-89ab-cdef-ABCD-EF0123456789"));
  for (const std::string text :
       {"", "01234567-89ab-cdef-abcd-ef012345678", "01234567-89ab-cdef-abcd-ef01234567890",
        "0123456789abcdefabcdef0123456789", "{0123456-89ab-cdef-abcd-ef0123456789",
        "01234567-89ab-cdef-abcd-ef012345678g", "01234567089ab-cdef-abcd-ef0123456789",
        "0123456-789ab-cdef-abcd-ef0123456789", " 1234567-89ab-cdef-abcd-ef0123456789"}) {
    CAPTURE(text);
    CHECK_FALSE(isUuid(text));
  }
  CHECK_FALSE(isUuid(std::string(36, '\0')));
}

TEST_CASE("the normal form of a UUID is lower case") {
  CHECK(normalizedUuid("01234567-89AB-CDEF-abcd-EF0123456789") ==
        "01234567-89ab-cdef-abcd-ef0123456789");
}

TEST_CASE("ids of other versions, and other texts, have no time") {
  CHECK_FALSE(timeOfEventId("017f22e2-79b0-4cc3-98c4-dc0c0c07398f"));
  CHECK_FALSE(timeOfEventId("C232AB00-9414-11EC-B3C8-9F6BDECED846"));
  CHECK_FALSE(timeOfEventId("7"));
}

TEST_CASE(
    "an id whose time is beyond the clock's range is of the far future, not of another time") {
  const auto time = timeOfEventId("ffffffff-ffff-7000-8000-000000000000");
  REQUIRE(time);
  CHECK(*time > std::chrono::sys_days(std::chrono::year(2200) / 1 / 1));
  // Its milliseconds, taken modulo 2^64 nanoseconds, are those of early 2026.
  const auto wrapped = timeOfEventId("126308fa-25ed-7000-8000-000000000000");
  REQUIRE(wrapped);
  CHECK(*wrapped > std::chrono::sys_days(std::chrono::year(2200) / 1 / 1));
}
