#include "inbox/inbox_table.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <set>

#include "event/event_id.hpp"
#include "support/manual_clock.hpp"
#include "support/scripted_random.hpp"

using namespace std::chrono_literals;
using namespace pillion::inbox;

namespace {

WallTime atSpan(std::int64_t span, std::chrono::milliseconds inside = 0ms) {
  return WallTime(span * kChildSpan + inside);
}

/// The child that an id of this time goes to, as sql/0003_inbox.sql says: bits 26 to 30.
int childOf(WallTime time) {
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(time.time_since_epoch());
  return static_cast<int>((ms.count() >> 26) & 31);
}

std::set<int> childrenIn(const std::vector<OldChild>& old) {
  std::set<int> children;
  for (const OldChild& child : old) children.insert(child.child);
  CHECK(children.size() == old.size());
  return children;
}

}  // namespace

TEST_CASE("nothing is old when the horizon lies before the ring") {
  const WallTime now = atSpan(1'000, 5h);
  CHECK(childrenBefore(now - std::chrono::days(40), now).empty());
}

TEST_CASE("a child is old when its whole span has ended before the horizon") {
  const WallTime now = atSpan(1'000, 5h);
  CHECK(childrenIn(childrenBefore(atSpan(972, 1ms), now)).size() == 1);
  const auto old = childrenBefore(atSpan(980, 1ms), now);
  CHECK(old.size() == 9);
  for (const OldChild& child : old) {
    CHECK(child.end <= atSpan(980));
    CHECK(childOf(child.end - 1ms) == child.child);
  }
}

TEST_CASE("a child whose span holds the horizon is kept") {
  const WallTime now = atSpan(1'000, 5h);
  const auto old = childrenIn(childrenBefore(atSpan(980, 10h), now));
  CHECK(old.contains(childOf(atSpan(979))));
  CHECK_FALSE(old.contains(childOf(atSpan(980))));
}

TEST_CASE("the current child and the next two are never old, wherever the ring stands") {
  for (std::int64_t span = 1'000; span < 1'000 + 2 * kRing; ++span) {
    for (const auto inside : {std::chrono::milliseconds(0ms), kChildSpan - 1ms}) {
      const WallTime now = atSpan(span, inside);
      const auto old = childrenIn(childrenBefore(now, now));
      CAPTURE(span);
      CHECK(old.size() >= 28);
      for (int ahead = 0; ahead <= kChildrenAhead; ++ahead) {
        CHECK_FALSE(old.contains(childOf(atSpan(span + ahead))));
      }
    }
  }
}

TEST_CASE("ids made up to a day ahead go to a child that is not old") {
  pillion::test::SeededRandom random(11);
  for (int i = 0; i < 5'000; ++i) {
    const WallTime now = atSpan(26'000, std::chrono::milliseconds(random.below(1U << 31U)));
    const WallTime horizon = now - std::chrono::hours(24 + random.below(480));
    const auto old = childrenIn(childrenBefore(horizon, now));
    REQUIRE_FALSE(old.contains(childOf(now + std::chrono::hours(24))));
    REQUIRE_FALSE(old.contains(childOf(horizon)));
  }
}

TEST_CASE("an id's time and the child's bits are those of the migration") {
  pillion::test::ManualClock clock;
  const std::string id = pillion::makeEventId(clock);
  const auto time = pillion::timeOfEventId(id);
  REQUIRE(time);
  // get_byte(uuid, 2) >> 2 & 31
  const int byte = std::stoi(id.substr(4, 2), nullptr, 16);
  CHECK(childOf(*time) == ((byte >> 2) & 31));
}
