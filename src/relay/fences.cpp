#include "relay/fences.hpp"

namespace pillion::relay {
namespace {

constexpr int kMostRefusals = 4;

}  // namespace

outbox::Lanes Fences::hold(outbox::Lanes wanted) {
  int refusals = 0;
  for (int tried = 0; tried < outbox::kLanes && refusals < kMostRefusals; ++tried) {
    const int lane = std::exchange(next_, (next_ + 1) % outbox::kLanes);
    const outbox::Lanes bit = outbox::laneBit(lane);
    if ((wanted & bit & ~held_) == 0) continue;
    if (connection_.holdExclusiveQueue(nameOf(lane))) {
      held_ |= bit;
    } else {
      ++refusals;
    }
  }
  return held_ & wanted;
}

void Fences::keepOnly(outbox::Lanes lanes) {
  if ((held_ & ~lanes) == 0) return;
  for (int lane = 0; lane < outbox::kLanes; ++lane) {
    if ((held_ & ~lanes & outbox::laneBit(lane)) == 0) continue;
    connection_.dropExclusiveQueue(nameOf(lane));
    held_ &= ~outbox::laneBit(lane);
  }
}

std::string Fences::nameOf(int lane) const {
  return prefix_ + '.' + std::to_string(lane);
}

}  // namespace pillion::relay
