#include "base/failpoint.hpp"

#include <doctest/doctest.h>

#include <chrono>
#include <pillion/error.hpp>

namespace failpoint = pillion::base::failpoint;
using pillion::ConfigError;

namespace {

struct Disarmed {
  ~Disarmed() { failpoint::disarm(); }
};

bool hits(const char* site) {
  try {
    PILLION_FAILPOINT(site);
    return false;
  } catch (const pillion::Error& error) {
    CHECK(error.retryable());
    return true;
  }
}

}  // namespace

TEST_CASE("an armed failpoint acts at each passage, one that is not armed at none") {
  const Disarmed guard;
  failpoint::arm("a=error");
  CHECK(hits("a"));
  CHECK(hits("a"));
  CHECK_FALSE(hits("b"));
  CHECK_FALSE(hits("ab"));
  CHECK(failpoint::passages("a") == 2);
  CHECK(failpoint::passages("b") == 0);
}

TEST_CASE("with @n only the n-th passage acts") {
  const Disarmed guard;
  failpoint::arm("a=error@3");
  CHECK_FALSE(hits("a"));
  CHECK_FALSE(hits("a"));
  CHECK(hits("a"));
  CHECK_FALSE(hits("a"));
  CHECK(failpoint::passages("a") == 4);
}

TEST_CASE("several sites are separated by semicolons, empty entries are passed over") {
  const Disarmed guard;
  failpoint::arm(";a=error@1;;b=error;");
  CHECK(hits("a"));
  CHECK_FALSE(hits("a"));
  CHECK(hits("b"));
}

TEST_CASE("a delay waits for its milliseconds and goes on") {
  const Disarmed guard;
  failpoint::arm("a=delay(15)");
  const auto begin = std::chrono::steady_clock::now();
  CHECK_FALSE(hits("a"));
  CHECK(std::chrono::steady_clock::now() - begin >= std::chrono::milliseconds(15));
}

TEST_CASE("arming anew forgets what was armed, and so does disarming") {
  const Disarmed guard;
  failpoint::arm("a=error");
  failpoint::arm("b=error");
  CHECK_FALSE(hits("a"));
  failpoint::disarm();
  CHECK_FALSE(hits("b"));
}

TEST_CASE("a text that is no failpoint is a ConfigError, and what was armed stays") {
  const Disarmed guard;
  failpoint::arm("a=error");
  for (const std::string spec : {"b", "b=", "b=explode", "b=error@", "b=error@x", "b=delay(x)",
                                 "b=kill;c", "=", "b==error"}) {
    CAPTURE(spec);
    CHECK_THROWS_AS(failpoint::arm(spec), ConfigError);
  }
  CHECK(hits("a"));
}

TEST_CASE("a text that is only almost a failpoint is a ConfigError, not another failpoint") {
  const Disarmed guard;
  for (const std::string spec : {"a=delay(5", "a=delay(5x)", "a=delay(5)x", "a=delay", "a=error@2x",
                                 "a=error@0", "a=error@-1", "=error", "a=kill(7)"}) {
    CAPTURE(spec);
    CHECK_THROWS_AS(failpoint::arm(spec), ConfigError);
  }
}
