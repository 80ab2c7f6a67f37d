#pragma once

#include <chrono>
#include <map>
#include <string>
#include <utility>

#include "amqp/connection.hpp"
#include "amqp/topology.hpp"
#include "base/clock.hpp"
#include "inbox/delivery_queue.hpp"
#include "inbox/holdings.hpp"
#include "inbox/markers.hpp"
#include "inbox/queue_consumers.hpp"

namespace pillion::inbox {

/// A change of the number of partitions, as far as the broker is concerned: the next queues are
/// bound beside the present ones, which are unbound when every instance has heard of it, and proved
/// to be worked off; and when the next ones are the present ones, those of before are worked off
/// once more and go.
class PartitionChange {
 public:
  PartitionChange(const QueueConsumers& consumers, const DeliveryQueue& queue)
      : consumers_(consumers), queue_(queue) {}

  void note(const Assignment& now);
  /// Is that what was noted last, but for who has which partition?
  [[nodiscard]] bool isNoted(const Assignment& now) const {
    return now.isCurrent && now.generation == generation_ && now.next == next_;
  }
  /// Has there been something for a look to do, since one was taken?
  [[nodiscard]] bool needsLook() const { return looks_; }
  void takeLook() { looks_ = false; }
  [[nodiscard]] bool isUnderWay() const { return next_ != 0; }
  void declare(amqp::Connection& connection, const amqp::ConsumerTopology& present);
  /// A marker is no event: it only has to be acked.
  bool takeMarker(const amqp::Delivery& delivery) { return markers_.take(delivery); }

  /// The queues of before that are still to be consumed here.
  QueueNames retired(const Assignment& now);
  /// Those of them that are not consumed any more may be deleted, which a look does.
  void letGo();
  /// Of the present queues.
  void noteDrained(const amqp::ConsumerTopology& present, const Assignment& now);
  /// Over a connection for looks: its channel may end, and an alarm at the broker, which reads
  /// nothing more from whoever publishes, holds up no acks.
  void look(amqp::Connection& look, const amqp::ConsumerTopology& present, const Assignment& now);

  [[nodiscard]] int known() const { return next_ != 0 ? generation_ + 1 : generation_; }
  [[nodiscard]] int bound() const { return bound_; }
  [[nodiscard]] const Partitions& drained() const { return drained_; }

 private:
  enum class Stage { Consumed, WorkedOff, LetGo };
  struct Retired {
    std::string first;  // of its generation; by that one the others are found
    Stage stage = Stage::Consumed;
  };

  [[nodiscard]] bool isWorkedOff(const std::string& queue);
  void lookForRetired(amqp::Connection& look, const amqp::ConsumerTopology& present);
  void deleteRetired(amqp::Connection& look);
  void sendMarkers(amqp::Connection& look);

  const QueueConsumers& consumers_;
  const DeliveryQueue& queue_;
  Markers markers_;
  std::map<std::string, amqp::Message> toSend_;  // the marker of each queue
  bool looks_ = false;
  int generation_ = 0;
  int next_ = 0;          // partitions that it is being changed to
  bool allKnow_ = false;  // of that
  int bound_ = 0;         // the generation which alone was bound last
  Partitions drained_;    // of the present queues, while they are worked off
  std::map<std::string, Retired> retired_;
  base::Clock::Boot nextLook_{0};
};

}  // namespace pillion::inbox
