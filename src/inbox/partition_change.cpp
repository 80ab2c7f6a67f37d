#include "inbox/partition_change.hpp"

#include <algorithm>
#include <utility>
#include <vector>

namespace pillion::inbox {
namespace {

/// An instance that was slow may have bound them once more.
constexpr std::chrono::hours kRetiredLook{1};

}  // namespace

bool PartitionChange::note(const Assignment& now) {
  const int before = std::exchange(generation_, now.generation);
  const bool isOver = before != 0 && before != now.generation;
  if (isOver) {
    drained_.clear();
    nextLook_ = base::Clock::Boot{0};
  }
  return now.next != std::exchange(next_, now.next) || isOver;
}

void PartitionChange::declare(amqp::Connection& connection, const amqp::ConsumerTopology& present) {
  if (next_ == 0) {
    amqp::declare(connection, present);
    bound_ = present.generation;
    return;
  }
  amqp::ConsumerTopology next = present;
  next.partitions = next_;
  ++next.generation;
  amqp::declareChange(connection, present, next);
  bound_ = next.generation;
}

bool PartitionChange::isWorkedOff(amqp::Connection& connection, const std::string& queue) {
  const auto consumer = consumers_.consumerOf(queue);
  if (!consumer) return false;
  if (markers_.cameBack(*consumer)) return queue_.loadOf(*consumer).open == 0;
  const auto marker = markers_.next(queue, *consumer, base::systemClock().boot());
  if (marker) connection.publish(*marker);
  return false;
}

void PartitionChange::noteDrained(amqp::Connection& connection,
                                  const amqp::ConsumerTopology& present, const Assignment& now) {
  if (!now.draining) return;
  for (const int partition : now.wanted) {
    if (drained_.contains(partition)) continue;
    if (isWorkedOff(connection, present.partitionQueue(partition))) drained_.insert(partition);
  }
}

/// Nothing should be left in them; whatever is all the same is no less than an event. The instance
/// that has the first partition sees to it.
QueueNames PartitionChange::retired(amqp::Connection& connection, const Assignment& now) {
  if (!now.wanted.contains(0)) {
    retired_.clear();
    nextLook_ = base::Clock::Boot{0};  // should it come back
  }
  QueueNames consumed;
  for (auto& [queue, one] : retired_) {
    if (one.stage != Stage::Consumed) continue;
    if (isWorkedOff(connection, queue)) {
      one.stage = Stage::WorkedOff;
    } else {
      consumed.insert(queue);
    }
  }
  return consumed;
}

bool PartitionChange::letGo() {
  if (retired_.empty()) return false;
  const QueueNames consumed = consumers_.consumed();
  bool any = false;
  for (auto& [queue, one] : retired_) {
    if (one.stage != Stage::WorkedOff || consumed.contains(queue)) continue;
    one.stage = Stage::LetGo;
    any = true;
  }
  return any;
}

void PartitionChange::deleteRetired(amqp::Connection& look) {
  for (const bool isFirst : {false, true}) {
    std::vector<std::string> gone;
    for (const auto& [queue, one] : retired_) {
      if (one.stage != Stage::LetGo || isFirst != (queue == one.first)) continue;
      const auto isOther = [&](const auto& other) {
        return other.second.first == queue && other.first != queue;
      };
      if (isFirst && std::ranges::any_of(retired_, isOther)) continue;
      look.deleteQueue(queue);
      gone.push_back(queue);
    }
    for (const std::string& queue : gone) retired_.erase(queue);
  }
}

void PartitionChange::lookForRetired(amqp::Connection& look, const amqp::ConsumerTopology& present,
                                     const Assignment& now) {
  deleteRetired(look);
  const auto time = base::systemClock().boot();
  if (next_ != 0 || !now.wanted.contains(0) || time < nextLook_) return;
  for (const auto& [queue, first] : amqp::unbindRetired(look, present)) {
    retired_.try_emplace(queue, Retired{.first = first});
  }
  nextLook_ = time + kRetiredLook;
}

}  // namespace pillion::inbox
