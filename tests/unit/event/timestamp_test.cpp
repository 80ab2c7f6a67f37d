#include "event/timestamp.hpp"

#include <doctest/doctest.h>

#include "support/scripted_random.hpp"

using namespace std::chrono;
using pillion::fromRfc3339;
using pillion::toRfc3339;

namespace {

system_clock::time_point of(int y, unsigned m, unsigned d, microseconds rest = 0us) {
  return system_clock::time_point(sys_days(year(y) / month(m) / day(d))) + rest;
}

}  // namespace

TEST_CASE("a time is written in UTC with six digits of fraction") {
  CHECK(toRfc3339(of(2026, 1, 31, 23h + 59min + 59s + 123'456us)) == "2026-01-31T23:59:59.123456Z");
  CHECK(toRfc3339(of(1970, 1, 1)) == "1970-01-01T00:00:00.000000Z");
  CHECK(toRfc3339(of(2199, 12, 31, 1us)) == "2199-12-31T00:00:00.000001Z");
  CHECK(toRfc3339(of(1969, 12, 31, 23h + 59min + 59s + 999'999us)) ==
        "1969-12-31T23:59:59.999999Z");
}

TEST_CASE("what is finer than a microsecond is cut off, towards the past") {
  CHECK(toRfc3339(of(2026, 1, 1) + nanoseconds(1'999)) == "2026-01-01T00:00:00.000001Z");
  CHECK(toRfc3339(of(1970, 1, 1) - nanoseconds(1)) == "1969-12-31T23:59:59.999999Z");
}

TEST_CASE("ten thousand times of 1970 to 2199 survive the way out and back") {
  pillion::test::SeededRandom random(3);
  const auto span = duration_cast<microseconds>(of(2200, 1, 1) - of(1970, 1, 1)).count();
  for (int i = 0; i < 10'000; ++i) {
    const auto time = of(1970, 1, 1) + microseconds(random.below(static_cast<std::size_t>(span)));
    REQUIRE(fromRfc3339(toRfc3339(time)) == time);
  }
}

TEST_CASE("fractions of any length, lower case and offsets are read") {
  const auto noon = of(2026, 2, 28, 12h);
  for (const std::string text :
       {"2026-02-28T12:00:00Z", "2026-02-28t12:00:00z", "2026-02-28 12:00:00Z",
        "2026-02-28T12:00:00.0Z", "2026-02-28T12:00:00.000000000000000000000Z",
        "2026-02-28T12:00:00+00:00", "2026-02-28T12:00:00-00:00", "2026-02-28T14:00:00+02:00",
        "2026-02-28T06:30:00-05:30", "2026-03-01T01:00:00+13:00", "2026-02-27T22:00:00-14:00"}) {
    CAPTURE(text);
    CHECK(fromRfc3339(text) == noon);
  }
  CHECK(fromRfc3339("2026-02-28T12:00:00.5Z") == noon + 500ms);
  CHECK(fromRfc3339("2026-02-28T12:00:00.1234567Z") == noon + 123'456us);
  CHECK(fromRfc3339("2026-02-28T12:00:00.000001+00:00") == noon + 1us);
}

TEST_CASE("a leap second is the first of the next minute") {
  CHECK(fromRfc3339("2016-12-31T23:59:60Z") == of(2017, 1, 1));
}

TEST_CASE("29 February is there in leap years alone") {
  CHECK(fromRfc3339("2024-02-29T00:00:00Z") == of(2024, 2, 29));
  CHECK_FALSE(fromRfc3339("2026-02-29T00:00:00Z"));
  CHECK_FALSE(fromRfc3339("2100-02-29T00:00:00Z"));
}

TEST_CASE("a text of another form is no time") {
  for (const std::string text : {"",
                                 "Z",
                                 "2026",
                                 "2026-02-28",
                                 "2026-02-28T12:00:00",
                                 "2026-02-28T12:00Z",
                                 "2026-02-28T12:00:00Zx",
                                 "2026-02-28T12:00:00 Z",
                                 "26-02-28T12:00:00Z",
                                 "2026-2-28T12:00:00Z",
                                 "2026-13-01T00:00:00Z",
                                 "2026-00-01T00:00:00Z",
                                 "2026-04-31T00:00:00Z",
                                 "2026-02-00T00:00:00Z",
                                 "2026-02-28T24:00:00Z",
                                 "2026-02-28T12:60:00Z",
                                 "2026-02-28T12:00:61Z",
                                 "2026-02-28T12:00:00+1",
                                 "2026-02-28T12:00:00+",
                                 "2026-02-28T12:00:00+01:0",
                                 "-026-02-28T12:00:00Z",
                                 "2026/02/28T12:00:00Z",
                                 "2026-02-28X12:00:00Z",
                                 "2026-02-28T12:00:00,5Z",
                                 "2026-02-28T1x:00:00Z",
                                 "Sat, 28 Feb 2026 12:00:00 GMT"}) {
    CAPTURE(text);
    CHECK_FALSE(fromRfc3339(text));
  }
}

TEST_CASE("a text that is only almost of the form is no time") {
  for (const std::string text :
       {"2026-02-28T-0:00:00Z", "2026-02-28T12:-0:00Z", "-000-02-28T12:00:00Z",
        "2026-02-28T12:00:00.Z", "2026-02-28T12:00:00+99:00", "2026-02-28T12:00:00+00:99",
        "2026-02-28T12:00:00+-0:00"}) {
    CAPTURE(text);
    CHECK_FALSE(fromRfc3339(text));
  }
}

TEST_CASE("a time that the clock cannot hold is no time, and not another one") {
  for (const std::string text : {"9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z",
                                 "2263-01-01T00:00:00Z", "1600-01-01T00:00:00Z"}) {
    CAPTURE(text);
    CHECK_FALSE(fromRfc3339(text));
  }
}
