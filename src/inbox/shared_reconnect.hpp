#pragma once

#include <chrono>
#include <map>
#include <string>
#include <utility>

#include "base/backoff.hpp"
#include "base/outage.hpp"
#include "base/thread_safety.hpp"

namespace pillion::inbox {

/// base::Reconnect for the threads of a consumer, each of which has a connection to PostgreSQL of
/// its own: they say once together that it is away, and that it is back for all.
class SharedReconnect {
 public:
  SharedReconnect(std::string who, std::chrono::milliseconds first, std::chrono::milliseconds most)
      : first_(first), most_(most), outage_(std::move(who)) {}

  /// Returns for how long this thread is to wait before its next attempt.
  std::chrono::milliseconds failed(const void* thread, const Error& error) {
    const base::MutexLock lock(mutex_);
    outage_.began(error);
    return waiting_.try_emplace(thread, first_, most_).first->second.next();
  }
  /// The server did what this thread asked: a connection that was opened proves nothing.
  void works(const void* thread) {
    const base::MutexLock lock(mutex_);
    if (waiting_.erase(thread) > 0 && waiting_.empty()) outage_.ended();
  }

 private:
  const std::chrono::milliseconds first_;
  const std::chrono::milliseconds most_;
  base::Mutex mutex_;
  base::Outage outage_ PILLION_GUARDED_BY(mutex_);
  std::map<const void*, base::Backoff> waiting_ PILLION_GUARDED_BY(mutex_);
};

}  // namespace pillion::inbox
