#include "amqp/watchdog.hpp"

#include <sys/socket.h>

#include "base/clock.hpp"

namespace pillion::amqp {
namespace {

/// How late it may notice. Coarse, so that arming it costs one store and no wake-up.
constexpr std::chrono::milliseconds kGrain{100};

std::int64_t now() {
  return base::systemClock().boot().count();
}

}  // namespace

Watchdog::Watchdog(int socket) : socket_(socket), thread_([this] { watch(); }) {}

Watchdog::~Watchdog() {
  {
    const std::scoped_lock lock(mutex_);
    stop_ = true;
  }
  stopped_.notify_one();
  thread_.join();
}

void Watchdog::watch() {
  std::unique_lock lock(mutex_);
  while (!stopped_.wait_for(lock, kGrain, [this] { return stop_; })) {
    const std::int64_t deadline = deadline_;
    if (deadline == 0 || now() < deadline || fired_) continue;
    fired_ = true;
    ::shutdown(socket_, SHUT_RDWR);
  }
}

Watchdog::Guard::Guard(Watchdog& watchdog, std::chrono::milliseconds limit) : watchdog_(watchdog) {
  watchdog_.deadline_ = now() + std::chrono::nanoseconds(limit).count();
}

Watchdog::Guard::~Guard() {
  watchdog_.deadline_ = 0;
}

}  // namespace pillion::amqp
