#pragma once

#include <chrono>

#include "base/random.hpp"

namespace pillion::base {

/// Waits that grow by `factor` from `first` to `most`, each shortened by up to a third at random.
class Backoff {
 public:
  using Milliseconds = std::chrono::milliseconds;

  Backoff(Milliseconds first, Milliseconds most, double factor = 2.0,
          Random& random = systemRandom());

  /// The next wait; each call makes the following one longer.
  Milliseconds next();
  void reset() { current_ = first_; }

 private:
  Milliseconds first_;
  Milliseconds most_;
  double factor_;
  Random* random_;
  Milliseconds current_;
};

}  // namespace pillion::base
