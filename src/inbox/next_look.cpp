#include "inbox/next_look.hpp"

#include <algorithm>

namespace pillion::inbox {

void NextLook::within(std::chrono::nanoseconds wait) {
  const std::int64_t wanted = (clock_.boot() + wait).count();
  std::int64_t at = at_;
  while (wanted < at && !at_.compare_exchange_weak(at, wanted)) {
  }
}

bool NextLook::take(std::chrono::nanoseconds again) {
  const std::int64_t now = clock_.boot().count();
  std::int64_t at = at_;
  return at <= now && at_.compare_exchange_strong(at, now + again.count());
}

std::chrono::milliseconds NextLook::left() const {
  const std::chrono::nanoseconds left(at_ - clock_.boot().count());
  return std::max(std::chrono::milliseconds(0), std::chrono::ceil<std::chrono::milliseconds>(left));
}

}  // namespace pillion::inbox
