#include "inbox/batch_plan.hpp"

#include <doctest/doctest.h>

#include <vector>

using namespace std::chrono_literals;
using pillion::inbox::BatchPlan;
using pillion::inbox::BatchSize;

namespace {

/// Sizes of the attempts at `count` events of which the one at `poison` fails in any batch.
std::vector<std::size_t> attempts(std::size_t count, std::size_t poison) {
  std::vector<std::size_t> sizes;
  BatchPlan plan;
  for (std::size_t at = 0; at < count;) {
    const std::size_t size = plan.size(count - at);
    sizes.push_back(size);
    if (size > 1 && poison >= at && poison < at + size) {
      plan.stoppedAt(poison - at);
      continue;
    }
    plan.succeeded();
    at += size;
  }
  return sizes;
}

}  // namespace

TEST_CASE("one event that fails is taken out: those before it, itself, the rest") {
  CHECK(attempts(10, 99) == std::vector<std::size_t>{10});
  CHECK(attempts(10, 4) == std::vector<std::size_t>{10, 4, 1, 5});
  CHECK(attempts(10, 0) == std::vector<std::size_t>{10, 1, 9});
  CHECK(attempts(10, 9) == std::vector<std::size_t>{10, 9, 1});
  CHECK(attempts(2, 1) == std::vector<std::size_t>{2, 1, 1});
}

TEST_CASE("a batch whose culprit is not known is halved until it is alone") {
  BatchPlan plan;
  std::size_t size = plan.size(100);
  int tries = 1;
  for (; size > 1; ++tries) {
    plan.stoppedAt(size / 2);
    size = plan.size(100);
  }
  CHECK(tries <= 8);
}

TEST_CASE("a plan that is to be smaller stays so, also around a culprit") {
  BatchPlan plan;
  plan.atMost(3);
  CHECK(plan.size(10) == 3);
  CHECK(plan.size(2) == 2);
  plan.stoppedAt(2);
  CHECK(plan.size(10) == 2);
  plan.succeeded();
  CHECK(plan.size(8) == 1);
  plan.succeeded();
  CHECK(plan.size(7) == 3);
}

TEST_CASE(
    "what fits into a tenth of a second is measured by what was handled, and is not nothing") {
  CHECK(BatchSize::fitting(10, 1s) == 1);
  CHECK(BatchSize::fitting(100, 1s) == 10);
  CHECK(BatchSize::fitting(1, 5s) == 1);
}

TEST_CASE("quick handlers get large batches, slow ones small, and one is the least") {
  BatchSize size(100);
  CHECK(size.now() == 8);
  for (int i = 0; i < 10; ++i) size.took(size.now(), 1ms);
  CHECK(size.now() == 100);
  size.took(100, 5s);  // 50 ms each
  CHECK(size.now() == 2);
  size.took(2, 10s);
  CHECK(size.now() == 1);
  size.took(1, 1us);
  CHECK(size.now() == 2);
  CHECK(BatchSize(1).now() == 1);
}
