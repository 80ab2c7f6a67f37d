#pragma once

#include <chrono>
#include <map>
#include <string>

#include "amqp/connection.hpp"
#include "amqp/topology.hpp"
#include "base/clock.hpp"
#include "inbox/delivery_queue.hpp"
#include "inbox/holdings.hpp"
#include "inbox/markers.hpp"
#include "inbox/queue_consumers.hpp"

namespace pillion::inbox {

/// A change of the number of partitions, as far as the broker is concerned: the next queues are
/// bound beside the present ones, these are proved to be worked off, and when the next ones are the
/// present ones, those of before are worked off once more and go.
class PartitionChange {
 public:
  PartitionChange(const QueueConsumers& consumers, const DeliveryQueue& queue)
      : consumers_(consumers), queue_(queue) {}

  /// True: what is bound is to be looked at now.
  bool note(const Assignment& now);
  void declare(amqp::Connection& connection, const amqp::ConsumerTopology& present);
  /// A marker is no event: it only has to be acked.
  bool takeMarker(const amqp::Delivery& delivery) { return markers_.take(delivery); }

  /// The queues of before that are still to be consumed here.
  QueueNames retired(amqp::Connection& connection, const Assignment& now);
  /// True: one of them may be deleted, which a look does.
  bool letGo();
  /// Of the present queues.
  void noteDrained(amqp::Connection& connection, const amqp::ConsumerTopology& present,
                   const Assignment& now);
  /// Over a connection for looks, whose channel may end.
  void lookForRetired(amqp::Connection& look, const amqp::ConsumerTopology& present,
                      const Assignment& now);

  [[nodiscard]] int bound() const { return bound_; }
  [[nodiscard]] const Partitions& drained() const { return drained_; }

 private:
  enum class Stage { Consumed, WorkedOff, LetGo };
  struct Retired {
    std::string first;  // of its generation; by that one the others are found
    Stage stage = Stage::Consumed;
  };

  [[nodiscard]] bool isWorkedOff(amqp::Connection& connection, const std::string& queue);
  void deleteRetired(amqp::Connection& look);

  const QueueConsumers& consumers_;
  const DeliveryQueue& queue_;
  Markers markers_;
  int generation_ = 0;
  int next_ = 0;        // partitions that it is being changed to
  int bound_ = 0;       // the generation that was bound last
  Partitions drained_;  // of the present queues, while they are worked off
  std::map<std::string, Retired> retired_;
  base::Clock::Boot nextLook_{0};
};

}  // namespace pillion::inbox
