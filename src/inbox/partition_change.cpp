#include "inbox/partition_change.hpp"

#include <algorithm>
#include <utility>
#include <vector>

namespace pillion::inbox {
namespace {

/// An instance that was slow may have bound them once more.
constexpr std::chrono::hours kRetiredLook{1};
constexpr std::chrono::seconds kMarkerConfirm{1};

}  // namespace

void PartitionChange::note(const Assignment& now) {
  const int before = std::exchange(generation_, now.generation);
  const bool isOver = before != 0 && before != now.generation;
  if (isOver) {
    drained_.clear();
    nextLook_ = base::Clock::Boot{0};
  }
  const bool knew = std::exchange(allKnow_, now.allKnow);
  looks_ |= now.next != std::exchange(next_, now.next) || knew != allKnow_ || isOver;
}

/// Whoever knows of the next queues binds none of the present ones: somebody may have unbound them.
void PartitionChange::declare(amqp::Connection& connection, const amqp::ConsumerTopology& present) {
  if (next_ == 0) {
    amqp::declare(connection, present);
    bound_ = present.generation;
    return;
  }
  amqp::ConsumerTopology next = present;
  next.partitions = next_;
  ++next.generation;
  amqp::declareBeside(connection, present, next);
  if (!allKnow_) return;
  amqp::unbindQueues(connection, present);
  bound_ = next.generation;
}

bool PartitionChange::isWorkedOff(const std::string& queue) {
  const auto consumer = consumers_.consumerOf(queue);
  if (!consumer) return false;
  if (markers_.cameBack(*consumer)) return queue_.loadOf(*consumer).open == 0;
  if (auto marker = markers_.next(queue, *consumer, base::systemClock().boot())) {
    toSend_[queue] = std::move(*marker);
    looks_ = true;
  }
  return false;
}

void PartitionChange::noteDrained(const amqp::ConsumerTopology& present, const Assignment& now) {
  if (!now.draining) return;
  for (const int partition : now.wanted) {
    if (drained_.contains(partition)) continue;
    if (isWorkedOff(present.partitionQueue(partition))) drained_.insert(partition);
  }
}

/// Nothing should be left in them; whatever is all the same is no less than an event. The instance
/// that has the first partition sees to it.
QueueNames PartitionChange::retired(const Assignment& now) {
  if (!now.wanted.contains(0)) {
    retired_.clear();
    nextLook_ = base::Clock::Boot{0};  // should it come back
  }
  QueueNames consumed;
  for (auto& [queue, one] : retired_) {
    if (one.stage != Stage::Consumed) continue;
    if (isWorkedOff(queue)) {
      one.stage = Stage::WorkedOff;
    } else {
      consumed.insert(queue);
    }
  }
  return consumed;
}

void PartitionChange::letGo() {
  if (retired_.empty()) return;
  const QueueNames consumed = consumers_.consumed();
  for (auto& [queue, one] : retired_) {
    if (one.stage != Stage::WorkedOff || consumed.contains(queue)) continue;
    one.stage = Stage::LetGo;
    looks_ = true;
  }
}

void PartitionChange::look(amqp::Connection& look, const amqp::ConsumerTopology& present,
                           const Assignment& now) {
  deleteRetired(look);
  std::erase_if(retired_, [&](const auto& one) { return !look.queueExists(one.first); });
  if (next_ == 0 && now.wanted.contains(0)) lookForRetired(look, present);
  sendMarkers(look);
}

void PartitionChange::deleteRetired(amqp::Connection& look) {
  for (const bool isFirst : {false, true}) {
    std::vector<std::string> gone;
    for (const auto& [queue, one] : retired_) {
      if (one.stage != Stage::LetGo || isFirst != (queue == one.first)) continue;
      const auto isOther = [&name = queue](const auto& other) {
        return other.second.first == name && other.first != name;
      };
      if (isFirst && std::ranges::any_of(retired_, isOther)) continue;
      look.deleteQueue(queue);
      gone.push_back(queue);
    }
    for (const std::string& queue : gone) retired_.erase(queue);
  }
}

void PartitionChange::lookForRetired(amqp::Connection& look,
                                     const amqp::ConsumerTopology& present) {
  const auto time = base::systemClock().boot();
  if (time < nextLook_) return;
  // Those that were found count, should this end before all are.
  amqp::unbindRetired(
      look, present, [&](const std::string& queue) { return retired_.contains(queue); },
      [&](const amqp::RetiredQueue& found) {
        retired_.try_emplace(found.name, Retired{.first = found.first});
      });
  nextLook_ = time + kRetiredLook;
}

void PartitionChange::sendMarkers(amqp::Connection& look) {
  if (toSend_.empty()) return;
  look.selectConfirms("");
  for (const auto& [queue, marker] : toSend_) {
    amqp::publishAndWait(look, marker, kMarkerConfirm);
  }
  toSend_.clear();
}

}  // namespace pillion::inbox
