#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>

namespace pillion::amqp {

/// Frees a call into rabbitmq-c that hangs. The library has no deadline for sending (its issue
/// 519): a broker that stops reading, or a peer that vanished, holds the caller for good.
/// shutdown(2) on the socket from another thread makes the call fail at once; it is the only thing
/// another thread may do to a connection.
class Watchdog {
 public:
  explicit Watchdog(int socket);
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

  int socket_;
  std::atomic<std::int64_t> limit_{0};    // in nanoseconds, 0 = nothing to guard
  std::atomic<std::uint64_t> guards_{0};  // so many were set
  std::atomic<bool> fired_{false};
  std::mutex mutex_;
  std::condition_variable stopped_;
  bool stop_ = false;  // guarded by mutex_
  std::thread thread_;
};

}  // namespace pillion::amqp
