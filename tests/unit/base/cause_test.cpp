#include "base/cause.hpp"

#include <doctest/doctest.h>

using namespace pillion::base;

TEST_CASE("a cause holds for as long as its scope, whatever becomes of what it was made from") {
  Cause made{.eventId = "one"};
  const CauseScope scope(made);
  made = {};
  REQUIRE(currentCause() != nullptr);
  CHECK(currentCause()->eventId == "one");
}

TEST_CASE("after an inner cause the outer one holds again, and none after that") {
  {
    const CauseScope outer({.eventId = "outer"});
    {
      const CauseScope inner({.eventId = "inner"});
      CHECK(currentCause()->eventId == "inner");
    }
    CHECK(currentCause()->eventId == "outer");
  }
  CHECK(currentCause() == nullptr);
}
