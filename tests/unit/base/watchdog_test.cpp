#include "base/watchdog.hpp"

#include <doctest/doctest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <thread>

using namespace std::chrono_literals;
using pillion::base::Watchdog;

namespace {

/// A connection whose other end never says a word.
class Silent {
 public:
  Silent() { REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends_.data()) == 0); }
  ~Silent() {
    for (const int end : ends_) ::close(end);
  }
  Silent(const Silent&) = delete;
  Silent& operator=(const Silent&) = delete;

  [[nodiscard]] int socket() const { return ends_[0]; }
  /// As a client library waits for an answer; returns when the socket was shut down.
  [[nodiscard]] ssize_t waitForAnswer() const {
    char byte = 0;
    return ::recv(ends_[0], &byte, 1, 0);
  }
  void answer() const { REQUIRE(::send(ends_[1], "x", 1, 0) == 1); }

 private:
  std::array<int, 2> ends_{};
};

}  // namespace

TEST_CASE("a call that hangs ends when its guard's limit has passed") {
  const Silent peer;
  Watchdog watchdog(peer.socket());
  const Watchdog::Guard guard(watchdog, 50ms);
  CHECK(peer.waitForAnswer() == 0);
  CHECK(watchdog.fired());
}

TEST_CASE("a call that is answered in time ends nothing, and neither does one without a guard") {
  const Silent peer;
  Watchdog watchdog(peer.socket());
  {
    const Watchdog::Guard guard(watchdog, 10min);
    peer.answer();
    CHECK(peer.waitForAnswer() == 1);
  }
  peer.answer();
  CHECK(peer.waitForAnswer() == 1);
  CHECK_FALSE(watchdog.fired());
}

TEST_CASE("so long after a stop was asked for, a call ends that has no guard, or one of long") {
  for (const bool guarded : {false, true}) {
    CAPTURE(guarded);
    const Silent peer;
    std::stop_source stopping;
    Watchdog watchdog(peer.socket(), {stopping.get_token(), 50ms});
    std::optional<Watchdog::Guard> guard;
    if (guarded) guard.emplace(watchdog, 10min);
    CHECK_FALSE(watchdog.fired());
    const std::jthread stop([&] { stopping.request_stop(); });
    CHECK(peer.waitForAnswer() == 0);
    CHECK(watchdog.fired());
  }
}
