#include "relay/fences.hpp"

namespace pillion::relay {
namespace {

using outbox::laneBit;
using outbox::Lanes;

constexpr int kMostRefusals = 4;

}  // namespace

Lanes Fences::hold(Lanes wanted) {
  int refusals = 0;
  for (int tried = 0; tried < outbox::kLanes && refusals < kMostRefusals; ++tried) {
    const int lane = std::exchange(next_, (next_ + 1) % outbox::kLanes);
    if ((wanted & laneBit(lane) & ~held_) == 0) continue;
    if (holdAsSuccessor(lane)) {
      held_ |= laneBit(lane);
    } else {
      ++refusals;
    }
  }
  return held_ & wanted;
}

bool Fences::holdFirst(int lane) {
  if ((first_ & laneBit(lane)) != 0) return true;
  if (!connection_.holdExclusiveQueue(nameOf(lane))) return false;
  first_ |= laneBit(lane);
  return true;
}

bool Fences::holdAsSuccessor(int lane) {
  return holdFirst(lane) && connection_.isExclusiveQueueFree(nameOf(lane, Which::Second));
}

Lanes Fences::holdAgain(Lanes wanted) {
  for (int lane = 0; lane < outbox::kLanes; ++lane) {
    if ((wanted & laneBit(lane)) == 0) continue;
    if (!holdFirst(lane)) {
      if (!connection_.holdExclusiveQueue(nameOf(lane, Which::Second))) continue;
      second_ |= laneBit(lane);
    }
    held_ |= laneBit(lane);
  }
  return held_ & wanted;
}

void Fences::leaveSecond() {
  int refusals = 0;
  for (int lane = 0; lane < outbox::kLanes && refusals < kMostRefusals; ++lane) {
    if ((second_ & laneBit(lane)) == 0) continue;
    if (holdFirst(lane)) {
      drop(lane, second_, Which::Second);
    } else {
      ++refusals;
    }
  }
}

void Fences::requireRights() {
  // One that is no lane's, and has a name like theirs, since rights go by patterns of names.
  const std::string name = nameOf(outbox::kLanes);
  if (connection_.holdExclusiveQueue(name)) connection_.dropExclusiveQueue(name);
}

Lanes Fences::takeLost() {
  for (const std::string& name : connection_.takeLostQueues()) {
    for (int lane = 0; lane < outbox::kLanes; ++lane) {
      if (name == nameOf(lane)) first_ &= ~laneBit(lane);
      if (name == nameOf(lane, Which::Second)) second_ &= ~laneBit(lane);
    }
  }
  const Lanes lost = held_ & ~first_ & ~second_;
  held_ &= ~lost;
  return lost;
}

void Fences::keepOnly(Lanes lanes) {
  const Lanes others = (first_ | second_) & ~lanes;
  if (others == 0) return;
  for (int lane = 0; lane < outbox::kLanes; ++lane) {
    if ((others & laneBit(lane)) == 0) continue;
    drop(lane, first_, Which::First);
    drop(lane, second_, Which::Second);
    held_ &= ~laneBit(lane);
  }
}

void Fences::drop(int lane, Lanes& of, Which which) {
  if ((of & laneBit(lane)) == 0) return;
  connection_.dropExclusiveQueue(nameOf(lane, which));
  of &= ~laneBit(lane);
}

std::string Fences::nameOf(int lane, Which which) const {
  return prefix_ + '.' + std::to_string(lane) + (which == Which::Second ? ".again" : "");
}

}  // namespace pillion::relay
