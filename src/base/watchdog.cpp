#include "base/watchdog.hpp"

#include <sys/socket.h>

#include <utility>

namespace pillion::base {
namespace {

/// How late it may notice, and see that a guard was set.
constexpr std::chrono::milliseconds kGrain{100};

}  // namespace

Watchdog::Watchdog(int socket, StopBound bound)
    : socket_(socket), bound_(std::move(bound)), thread_([this] { watch(); }) {}

Watchdog::~Watchdog() {
  {
    const MutexLock lock(mutex_);
    stop_ = true;
  }
  stopped_.notify_one();
  thread_.join();
}

void Watchdog::watch() {
  MutexLock lock(mutex_);
  std::uint64_t seen = 0;
  auto since = systemClock().boot();
  while (!stopped_.wait_for(lock, kGrain, [this]() PILLION_REQUIRES(mutex_) { return stop_; })) {
    const auto now = systemClock().boot();
    const auto limit = std::chrono::nanoseconds(limit_.load(std::memory_order_acquire));
    if (const std::uint64_t guards = guards_.load(std::memory_order_relaxed); guards != seen) {
      seen = guards;
      since = now;
    }
    const bool late = limit.count() != 0 && now - since >= limit;
    if (fired_ || (!late && !stopIsOver(now))) continue;
    fired_ = true;
    ::shutdown(socket_, SHUT_RDWR);
  }
}

bool Watchdog::stopIsOver(Clock::Boot now) {
  if (!bound_.stop.stop_requested()) return false;
  if (!stopSeen_) stopSeen_ = now;
  return now - *stopSeen_ >= bound_.limit;
}

Watchdog::Guard::Guard(Watchdog& watchdog, std::chrono::milliseconds limit) : watchdog_(watchdog) {
  // Guards come from one thread, the connection's.
  watchdog_.guards_.store(watchdog_.guards_.load(std::memory_order_relaxed) + 1,
                          std::memory_order_relaxed);
  watchdog_.limit_.store(std::chrono::nanoseconds(limit).count(), std::memory_order_release);
}

Watchdog::Guard::~Guard() {
  watchdog_.limit_.store(0, std::memory_order_release);
}

}  // namespace pillion::base
