#pragma once

#include <chrono>
#include <condition_variable>
#include <stop_token>

#include "base/thread_safety.hpp"

namespace pillion::base {

/// Waits for so long, or until stop is requested.
inline void pause(const std::stop_token& stop, std::chrono::milliseconds limit) {
  Mutex mutex;
  std::condition_variable_any changed;
  MutexLock lock(mutex);
  changed.wait_for(lock, stop, limit, [] { return false; });
}

}  // namespace pillion::base
