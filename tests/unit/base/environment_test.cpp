#include "base/environment.hpp"

#include <doctest/doctest.h>
#include <unistd.h>

#include <cstdlib>

using pillion::base::configured;

TEST_CASE("the option wins over the variable, the variable over the fallback") {
  ::setenv("PILLION_UNIT_TEST", "variable", 1);
  CHECK(configured("option", "PILLION_UNIT_TEST", "fallback") == "option");
  CHECK(configured("", "PILLION_UNIT_TEST", "fallback") == "variable");
  ::setenv("PILLION_UNIT_TEST", "", 1);
  CHECK(configured("", "PILLION_UNIT_TEST", "fallback") == "fallback");
  ::unsetenv("PILLION_UNIT_TEST");
  CHECK(configured("", "PILLION_UNIT_TEST", "fallback") == "fallback");
}

TEST_CASE("a process is called by its host and its id") {
  const std::string name = pillion::base::processName();
  CHECK(name.ends_with(":" + std::to_string(::getpid())));
  CHECK(name.front() != ':');
}
