#pragma once

#include <cstdint>

namespace pillion::base {

/// Randomness for ids and jitter, so that a test can own it.
class Random {
 public:
  virtual ~Random() = default;
  virtual std::uint64_t next() = 0;
};

/// The kernel's generator: safe in any thread and after fork. May be called from any thread.
Random& systemRandom();

}  // namespace pillion::base
