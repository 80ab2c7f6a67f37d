#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <optional>
#include <stop_token>
#include <thread>

#include "base/clock.hpp"
#include "base/thread_safety.hpp"

namespace pillion::base {

/// When a socket is given up, whatever is on its way: so long after a stop was asked for.
struct StopBound {
  std::stop_token stop = {};
  std::chrono::milliseconds limit{0};
};

/// Frees a call into a client library that hangs. rabbitmq-c has no deadline for sending (its issue
/// 519) and libpq none for an answer (PostgreSQL manual, 34.1.2: `tcp_user_timeout` counts only
/// what the peer's kernel leaves unacknowledged): a server that stops reading or answering holds
/// the caller for good. shutdown(2) on the socket from another thread makes the call fail at once;
/// it is the only thing another thread may do to a connection.
class Watchdog {
 public:
  explicit Watchdog(int socket, StopBound bound = {});
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  /// While a Guard lives, the socket is shut down once the limit has passed. There are several for
  /// each message, so it costs no look at the clock: the watching thread has one.
  class Guard {
   public:
    Guard(Watchdog& watchdog, std::chrono::milliseconds limit);
    ~Guard();
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;

   private:
    Watchdog& watchdog_;
  };

  [[nodiscard]] bool fired() const { return fired_; }

 private:
  void watch();
  /// Has so much time passed since the stop was asked for? Noticed a moment late.
  [[nodiscard]] bool stopIsOver(Clock::Boot now);

  int socket_;
  StopBound bound_;
  std::optional<Clock::Boot> stopSeen_;   // of the watching thread
  std::atomic<std::int64_t> limit_{0};    // in nanoseconds, 0 = nothing to guard
  std::atomic<std::uint64_t> guards_{0};  // so many were set
  std::atomic<bool> fired_{false};
  Mutex mutex_;
  std::condition_variable_any stopped_;
  bool stop_ PILLION_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace pillion::base
