#include "relay/poll_pace.hpp"

#include <doctest/doctest.h>

using namespace std::chrono_literals;
using pillion::relay::PollPace;
using Boot = PollPace::Boot;

TEST_CASE("the first look is at once") {
  CHECK(PollPace(1ms, 20ms).next() == 0ns);
}

TEST_CASE("while there is more, the next look is now; else after the first interval") {
  PollPace pace(2ms, 20ms);
  pace.foundEvents(10s, true);
  CHECK(pace.next() == 10s);
  pace.foundEvents(11s, false);
  CHECK(pace.next() == 11s + 2ms);
}

TEST_CASE("an empty look soon after events keeps the first interval") {
  PollPace pace(2ms, 20ms);
  pace.foundEvents(10s, false);
  for (const auto later : {2ms, 50ms, 100ms}) {
    pace.foundNothing(10s + later);
    CHECK(pace.next() == 10s + later + 2ms);
  }
}

TEST_CASE("an idle outbox is looked at less and less often, but never slower than the most") {
  PollPace pace(2ms, 20ms);
  pace.foundEvents(10s, false);
  Boot now = 11s;
  Boot before = 2ms;
  for (int i = 0; i < 20; ++i) {
    pace.foundNothing(now);
    const Boot interval = pace.next() - now;
    CHECK(interval >= before);
    CHECK(interval <= 20ms);
    before = interval;
    now = pace.next();
  }
  CHECK(before == 20ms);
  pace.foundEvents(now, false);
  CHECK(pace.next() == now + 2ms);
}

TEST_CASE("a backlog that is read page by page does not make an idle outbox be looked at often") {
  PollPace pace(2ms, 20ms);
  Boot now = 10s;
  for (int i = 0; i < 20; ++i) pace.foundNothing(now += 1s);
  for (int i = 0; i < 20; ++i) {
    pace.foundEvents(now += 50ms, true);
    CHECK(pace.next() == now);
    pace.foundNothing(now);
    CHECK(pace.next() == now + 20ms);
  }
  pace.foundEvents(now, false);
  CHECK(pace.next() == now + 2ms);
}

TEST_CASE("a wake-up makes the next look due, once") {
  PollPace pace(2ms, 20ms);
  pace.foundNothing(10s);
  pace.lookNow();
  CHECK(pace.next() <= 10s);
  pace.foundNothing(10s);
  CHECK(pace.next() > 10s);
}

TEST_CASE("a most below the first is the first") {
  PollPace pace(20ms, 1ms);
  pace.foundNothing(10s);
  CHECK(pace.next() == 10s + 20ms);
}

TEST_CASE(
    "while events come fast, the outbox is looked at twice as often, and no more than needed") {
  PollPace pace(2ms, 20ms);
  Boot now = 10s;
  for (int i = 0; i < 30; ++i) pace.foundEvents(now += 3ms, false);
  CHECK(pace.next() - now == 1ms);
  for (int i = 0; i < 30; ++i) pace.foundEvents(now += 6ms, false);
  CHECK(pace.next() - now > 1'400us);
  CHECK(pace.next() - now < 1'600us);
  for (int i = 0; i < 30; ++i) pace.foundEvents(now += 50ms, false);
  CHECK(pace.next() - now == 2ms);
}
