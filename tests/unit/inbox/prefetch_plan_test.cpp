#include "inbox/prefetch_plan.hpp"

#include <doctest/doctest.h>

using namespace std::chrono_literals;
using pillion::inbox::Load;
using pillion::inbox::PrefetchPlan;

namespace {

constexpr std::size_t kMiB = 1U << 20;

PrefetchPlan planOf(std::uint16_t wanted, std::size_t workers = 1) {
  PrefetchPlan plan({.wanted = wanted, .workers = workers, .bytes = 32 * kMiB, .longestWait = 60s});
  plan.opened(0s);
  return plan;
}

}  // namespace

TEST_CASE("a prefetch that is used up and turned over stays as it was asked for") {
  auto plan = planOf(300);
  Load load{.received = 300, .open = 300, .bytes = 300'000, .oldestReady = 1s};
  for (int second = 1; second < 1'000; ++second) {
    load.acked += 5'000;
    CHECK_FALSE(plan.reconsider(load, std::chrono::seconds(second)));
  }
  CHECK(plan.now() == 300);
}

TEST_CASE("large deliveries make it as small as their memory asks, and one is always allowed") {
  auto plan = planOf(300);
  CHECK(plan.reconsider({.open = 5, .bytes = 40 * kMiB, .oldestReady = 1s}, 1s));
  CHECK(plan.now() == 4);
  CHECK(plan.reconsider({.open = 4, .bytes = 64 * kMiB, .oldestReady = 1s}, 2s));
  CHECK(plan.now() == 2);
  CHECK(plan.reconsider({.open = 2, .bytes = 200 * kMiB, .oldestReady = 1s}, 3s));
  CHECK(plan.now() == 1);
  CHECK_FALSE(plan.reconsider({.open = 1, .bytes = 200 * kMiB, .oldestReady = 1s}, 4s));
}

TEST_CASE("deliveries that wait for long make it what was handled in that time, halved") {
  auto plan = planOf(300);
  CHECK_FALSE(plan.reconsider({.acked = 100, .open = 300, .oldestReady = 60s}, 60s));
  CHECK(plan.reconsider({.acked = 120, .open = 300, .oldestReady = 61s}, 120s));
  CHECK(plan.now() == 30);
  // Handlers of ten minutes: as many as work on them.
  auto slow = planOf(300, 4);
  CHECK(slow.reconsider({.open = 300, .oldestReady = 61s}, 61s));
  CHECK(slow.now() == 4);
}

TEST_CASE("what was made less becomes more after a while, when the pace allows it, and no sooner") {
  auto plan = planOf(300);
  REQUIRE(plan.reconsider({.open = 5, .bytes = 40 * kMiB}, 10s));
  plan.opened(10s);
  CHECK_FALSE(plan.reconsider({.acked = 1'000, .open = 4}, 11s));
  CHECK_FALSE(plan.reconsider({.acked = 1'002, .open = 4}, 311s));  // too slow to need it
  CHECK(plan.reconsider({.acked = 2'000, .open = 4}, 312s));
  CHECK(plan.now() == 8);
}

TEST_CASE("when all that was sent waits for keys that are held up, other keys get more room") {
  auto plan = planOf(300);
  const Load held{.open = 300, .bytes = 300'000, .anyIdle = true};
  CHECK_FALSE(plan.reconsider(held, 1s));  // it may pass
  CHECK(plan.reconsider(held, 2s));
  CHECK(plan.now() == 600);
  plan.opened(2s);
  const Load more{.open = 600, .bytes = 600'000, .anyIdle = true};
  CHECK_FALSE(plan.reconsider(held, 3s));  // not full yet
  CHECK_FALSE(plan.reconsider(more, 4s));
  CHECK(plan.reconsider(more, 5s));
  CHECK(plan.now() == 1'200);
}

TEST_CASE("more room has a bound: sixteen times what was asked for, and its memory") {
  auto plan = planOf(100);
  for (int second = 0; second < 100; ++second) {
    plan.reconsider({.open = plan.now(), .anyIdle = true}, std::chrono::seconds(second));
  }
  CHECK(plan.now() == 1'600);
  auto large = planOf(100);
  for (int second = 0; second < 100; ++second) {
    large.reconsider({.open = 100, .bytes = 20 * kMiB, .anyIdle = true},
                     std::chrono::seconds(second));
  }
  CHECK(large.now() == 100);
}

TEST_CASE("a worker that is busy, or has something to take, is not kept waiting by held keys") {
  auto plan = planOf(300);
  for (int second = 1; second < 10; ++second) {
    CHECK_FALSE(plan.reconsider({.open = 300, .anyIdle = false}, std::chrono::seconds(second)));
    CHECK_FALSE(plan.reconsider({.open = 300, .oldestReady = 1s, .anyIdle = true},
                                std::chrono::seconds(second)));
  }
}
