#pragma once

#include <algorithm>
#include <chrono>
#include <thread>

namespace pillion::support {

// Polls `predicate` until it holds or `limit` has passed. The pauses grow from 5 ms to 50 ms, so
// that a quick condition is noticed at once and a slow one costs little. What the predicate throws
// is the caller's: a broken query must not look like a condition that never came true.
template <typename Predicate>
bool eventually(std::chrono::milliseconds limit, Predicate&& predicate) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  auto pause = std::chrono::milliseconds(5);
  while (!predicate()) {
    if (std::chrono::steady_clock::now() >= deadline) return false;
    std::this_thread::sleep_for(pause);
    pause = std::min(pause + pause / 2, std::chrono::milliseconds(50));
  }
  return true;
}

// The contrary: whether `predicate` holds each time it is asked until `time` has passed.
template <typename Predicate>
bool holdsFor(std::chrono::milliseconds time, Predicate&& predicate) {
  return !eventually(time, [&] { return !predicate(); });
}

}  // namespace pillion::support
