#include "base/wake_event.hpp"

#include <doctest/doctest.h>
#include <poll.h>

using pillion::base::WakeEvent;

namespace {

bool isUp(const WakeEvent& wake) {
  pollfd fd{wake.fd(), POLLIN, 0};
  return ::poll(&fd, 1, 0) == 1;
}

}  // namespace

TEST_CASE(
    "a wake event is up from the first signal until it is taken, however often it was raised") {
  WakeEvent wake;
  CHECK_FALSE(isUp(wake));
  CHECK_FALSE(wake.take());
  for (int i = 0; i < 1'000; ++i) wake.signal();
  CHECK(isUp(wake));
  CHECK(wake.take());
  CHECK_FALSE(isUp(wake));
  CHECK_FALSE(wake.take());
}
