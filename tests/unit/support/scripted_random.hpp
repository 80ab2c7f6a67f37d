#pragma once

#include <cstdint>
#include <deque>
#include <random>

#include "base/random.hpp"

namespace pillion::test {

/// The same value for ever.
class FixedRandom : public base::Random {
 public:
  explicit FixedRandom(std::uint64_t value) : value_(value) {}
  std::uint64_t next() override { return value_; }

 private:
  std::uint64_t value_;
};

/// The same sequence for the same seed.
class SeededRandom : public base::Random {
 public:
  explicit SeededRandom(std::uint64_t seed) : engine_(seed) {}
  std::uint64_t next() override { return engine_(); }

  /// 0 to below - 1.
  std::size_t below(std::size_t below) { return static_cast<std::size_t>(engine_() % below); }
  bool oneIn(std::size_t n) { return below(n) == 0; }

 private:
  std::mt19937_64 engine_;
};

}  // namespace pillion::test
