#include "base/backoff.hpp"

#include <doctest/doctest.h>

#include "support/scripted_random.hpp"

using namespace std::chrono_literals;
using pillion::base::Backoff;

TEST_CASE("waits double from the first to the most when nothing is taken off at random") {
  pillion::test::FixedRandom random(0);
  Backoff backoff(100ms, 1'000ms, 2.0, random);
  for (const auto wait : {100ms, 200ms, 400ms, 800ms, 1'000ms, 1'000ms}) {
    CHECK(backoff.next() == wait);
  }
}

TEST_CASE("at most a third of a wait is taken off") {
  pillion::test::FixedRandom random(~std::uint64_t{0});
  Backoff backoff(300ms, 300ms, 2.0, random);
  CHECK(backoff.next() > 200ms);
  CHECK(backoff.next() <= 201ms);
}

TEST_CASE("every wait lies between two thirds of its step and the step, and they differ") {
  pillion::test::SeededRandom random(1);
  Backoff backoff(10'000ms, 10'000ms, 2.0, random);
  auto least = 10'000ms;
  auto most = 0ms;
  for (int i = 0; i < 1'000; ++i) {
    const auto wait = backoff.next();
    least = std::min(least, wait);
    most = std::max(most, wait);
  }
  CHECK(least >= 6'666ms);
  CHECK(least < 6'800ms);
  CHECK(most <= 10'000ms);
  CHECK(most > 9'900ms);
}

TEST_CASE("reset goes back to the first wait") {
  pillion::test::FixedRandom random(0);
  Backoff backoff(100ms, 1'000ms, 3.0, random);
  CHECK(backoff.next() == 100ms);
  CHECK(backoff.next() == 300ms);
  backoff.reset();
  CHECK(backoff.next() == 100ms);
}

TEST_CASE("a most below the first is the first, and growth never overflows") {
  pillion::test::FixedRandom random(0);
  Backoff narrow(500ms, 100ms, 2.0, random);
  CHECK(narrow.next() == 500ms);
  CHECK(narrow.next() == 500ms);
  Backoff steep(1ms, std::chrono::hours(24 * 365), 1e18, random);
  for (int i = 0; i < 100; ++i) CHECK(steep.next() <= std::chrono::hours(24 * 365));
}
