#include "base/backoff.hpp"

#include <algorithm>

namespace pillion::base {

Backoff::Backoff(Milliseconds first, Milliseconds most, double factor, Random& random)
    : first_(first),
      most_(std::max(first, most)),
      factor_(factor),
      random_(&random),
      current_(first) {}

Backoff::Milliseconds Backoff::next() {
  const auto wait = current_;
  const auto grown = static_cast<double>(current_.count()) * factor_;
  current_ = std::min(most_, Milliseconds(static_cast<Milliseconds::rep>(
                                 std::min(grown, static_cast<double>(most_.count())))));
  const double unit = static_cast<double>(random_->next() >> 11U) * 0x1.0p-53;
  return wait - Milliseconds(
                    static_cast<Milliseconds::rep>(static_cast<double>(wait.count()) * unit / 3.0));
}

}  // namespace pillion::base
