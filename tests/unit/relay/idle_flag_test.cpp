#include "relay/idle_flag.hpp"

#include <doctest/doctest.h>

using pillion::relay::IdleFlag;
using Do = IdleFlag::Do;

namespace {

constexpr IdleFlag::Look kFound{.foundEvents = true};
constexpr IdleFlag::Look kNothing{};
constexpr IdleFlag::Look kLongNothing{.longInVain = true};
constexpr IdleFlag::Look kLongNothingButWriters{.longInVain = true, .writersAtWork = true};

}  // namespace

TEST_CASE("a relay that finds nothing for long says so, looks once more, and then sleeps") {
  IdleFlag flag;
  CHECK(flag.after(kFound) == Do::Nothing);
  CHECK(flag.after(kNothing) == Do::Nothing);
  CHECK(flag.after(kLongNothing) == Do::RaiseAndLookOnce);
  CHECK(flag.after(kLongNothing) == Do::Sleep);
  CHECK(flag.after(kLongNothing) == Do::Sleep);
}

TEST_CASE("it does not sleep while a writer may not have seen the flag, and looks on") {
  IdleFlag flag;
  CHECK(flag.after(kLongNothing) == Do::RaiseAndLookOnce);
  CHECK(flag.after(kLongNothingButWriters) == Do::Nothing);
  CHECK(flag.after(kLongNothingButWriters) == Do::Nothing);
  CHECK(flag.after(kLongNothing) == Do::Sleep);
  CHECK(flag.after(kLongNothingButWriters) == Do::Sleep);  // that one has seen it
}

TEST_CASE("events end the sleep, and the flag is lowered once") {
  IdleFlag flag;
  flag.after(kLongNothing);
  CHECK(flag.after(kFound) == Do::LowerFlag);
  CHECK(flag.after(kFound) == Do::Nothing);
}

TEST_CASE("whoever is woken from sleep lowers the flag, also when another relay has the events") {
  IdleFlag flag;
  flag.after(kLongNothing);
  flag.after(kLongNothing);
  flag.woken();
  CHECK(flag.after(kLongNothing) == Do::LowerFlag);
  CHECK(flag.after(kLongNothing) == Do::RaiseAndLookOnce);
}

TEST_CASE("a wake-up before it sleeps is no reason to lower the flag") {
  IdleFlag flag;
  flag.after(kLongNothing);
  flag.woken();
  CHECK(flag.after(kLongNothing) == Do::Sleep);
}
