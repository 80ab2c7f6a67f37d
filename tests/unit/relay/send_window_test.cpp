#include "relay/send_window.hpp"

#include <doctest/doctest.h>

using namespace std::chrono_literals;
using pillion::relay::SendWindow;
using Boot = SendWindow::Boot;

namespace {

constexpr Boot kNow = 100s;

/// A window on a channel that has confirmed one message.
SendWindow proven(std::size_t events, std::size_t bytes) {
  SendWindow window(events, bytes, 10s);
  window.reset(kNow);
  window.sent(1);
  window.confirmed(kNow);
  window.settled(1);
  return window;
}

}  // namespace

TEST_CASE("a new channel is tried with one message, however large, and then used at full window") {
  SendWindow window(3, 100, 10s);
  window.reset(kNow);
  CHECK(window.roomFor(1'000));
  window.sent(1'000);
  CHECK_FALSE(window.roomFor(1));
  CHECK_FALSE(window.proven());
  window.confirmed(kNow);
  window.settled(1'000);
  CHECK(window.proven());
  for (int i = 0; i < 3; ++i) {
    CHECK(window.roomFor(1));
    window.sent(1);
  }
  CHECK_FALSE(window.roomFor(1));
  CHECK(window.inFlight() == 3);
}

TEST_CASE("when nothing is heard of the first message for a second, a few others are tried") {
  SendWindow window(1'000, 1'000'000, 30s);
  window.reset(kNow);
  window.sent(10);
  window.tryOthers(kNow, kNow + 999ms);
  CHECK_FALSE(window.roomFor(10));
  window.unblocked(kNow + 500ms);  // the broker had said that it blocks
  window.tryOthers(kNow, kNow + 1s);
  CHECK_FALSE(window.roomFor(10));
  window.tryOthers(kNow, kNow + 1500ms);
  CHECK(window.roomFor(10));
  CHECK_FALSE(window.roomFor(64 * 1024));
  for (int i = 1; i < 64; ++i) window.sent(10);
  CHECK_FALSE(window.roomFor(10));
  window.confirmed(kNow + 2s);
  CHECK(window.roomFor(10));
  window.reset(kNow + 3s);
  window.sent(10);
  CHECK_FALSE(window.roomFor(10));
}

TEST_CASE("bytes are limited as well, but one larger message travels alone") {
  SendWindow window = proven(10, 100);
  window.sent(60);
  CHECK(window.roomFor(40));
  CHECK_FALSE(window.roomFor(41));
  window.settled(60);
  CHECK(window.roomFor(1'000));
}

TEST_CASE("what may have closed the channel goes one by one, and the rest at full window again") {
  SendWindow window = proven(10, 100);
  window.sendAlone(2);
  for (int i = 0; i < 2; ++i) {
    CHECK(window.roomFor(1));
    window.sent(1);
    CHECK_FALSE(window.roomFor(1));
    window.settled(1);
  }
  window.sent(1);
  CHECK(window.roomFor(1));
}

TEST_CASE("what is not confirmed for the limit is overdue, and time does not count while blocked") {
  SendWindow window = proven(10, 100);
  CHECK_FALSE(window.overdue(kNow, kNow + 1h));  // nothing is in flight
  window.sent(1);
  CHECK_FALSE(window.overdue(kNow, kNow + 9s));
  CHECK(window.overdue(kNow, kNow + 10s));
  window.unblocked(kNow + 30s);
  CHECK_FALSE(window.overdue(kNow, kNow + 39s));
  CHECK(window.overdue(kNow, kNow + 40s));
}

TEST_CASE("a channel is alive while anything was confirmed on it within the limit") {
  SendWindow window = proven(10, 100);
  CHECK(window.alive(kNow + 9s));
  CHECK_FALSE(window.alive(kNow + 10s));
  window.confirmed(kNow + 15s);
  CHECK(window.alive(kNow + 20s));
  window.reset(kNow + 20s);
  CHECK_FALSE(window.alive(kNow + 20s));  // nothing is known of a new one
}
