#pragma once

#include <functional>
#include <string>
#include <vector>

#include "amqp/connection.hpp"
#include "amqp/names.hpp"

namespace pillion::amqp {

/// What a consumer needs at the broker: a durable topic exchange, a durable quorum queue bound to
/// it, and a dead-letter queue beside it.
///
/// With partitions there are several such queues, each with one active consumer at a time. The
/// topic exchange then feeds a headers exchange, `<queue>.partitions`, to which each queue is bound
/// by the lanes that are its own; what has no lane goes through the fanout exchange
/// `<queue>.unkeyed` to the first. Nothing of this needs a plugin.
struct ConsumerTopology {
  std::string inbox = {};  // whose queue it is
  std::string exchange;
  std::string queue;
  std::vector<std::string> patterns;
  int deliveryLimit = 0;
  int partitions = 0;  // 0: not partitioned
  int generation = 1;  // of the partitions' queues: each time that their number is changed, another

  [[nodiscard]] std::string deadLetterQueue() const { return deadLetterQueueOf(queue); }
  /// By which the broker itself refuses another inbox.
  [[nodiscard]] std::string markerExchange() const { return markerExchangeOf(queue); }
  [[nodiscard]] std::string partitionExchange() const { return partitionExchangeOf(queue); }
  [[nodiscard]] std::string unkeyedExchange() const { return unkeyedExchangeOf(queue); }
  [[nodiscard]] std::string partitionQueue(int partition) const {
    return partitionQueueOf(queue, partition, generation);
  }
  /// The queues that are consumed from.
  [[nodiscard]] std::vector<std::string> queues() const;
};

/// The queue is another inbox's. Two databases that share a queue would each apply a part.
class WrongInbox : public ConfigError {
 public:
  using ConfigError::ConfigError;
};

/// Makes the queue this inbox's, whosever it was.
void adoptQueue(Connection& connection, const ConsumerTopology& topology);

/// Declares the durable topic exchange; where the user may not, or `declareMissing` is off, only
/// looks for it. Throws ConfigError when it is not there or is of another type.
void ensureExchange(Connection& connection, const std::string& exchange, bool declareMissing);

/// Declares what is missing. Throws WrongInbox before anything else is done, and ConfigError that
/// shows the difference when a queue of that name exists with other arguments.
void declare(Connection& connection, const ConsumerTopology& topology);

/// While a consumer gets another number of partitions: makes sure that the present queues are
/// there, without binding them, and that all that is published from now on goes to the next ones,
/// too.
void declareBeside(Connection& connection, const ConsumerTopology& present,
                   const ConsumerTopology& next);

/// What is published goes to these queues no more. Not before every instance has heard of those
/// that take their place: bound once more, they would get later events without those in between.
void unbindQueues(Connection& connection, const ConsumerTopology& topology);

/// So many are looked at where it is not known which are there: each costs a round trip, and a
/// change of partitions is rare.
constexpr int kMostGenerations = 100;

struct RetiredQueue {
  std::string name;
  std::string first;  // of its generation
};

/// After such changes: looks for queues of the generations before that are still there, but for
/// those that `isKnown`, and tells of each when it is not bound to the lanes any more. A generation
/// is found by its first queue.
void unbindRetired(Connection& connection, const ConsumerTopology& present,
                   const std::function<bool(const std::string& queue)>& isKnown,
                   const std::function<void(const RetiredQueue&)>& tell);

/// `<queue>.dead`, by its own name.
void declareDeadLetterQueue(Connection& connection, const std::string& name);

/// Only looks whether exchanges and queues are there; throws ConfigError naming what is not. Types
/// and arguments cannot be seen without the right to configure: AMQP compares them in a declaration
/// that is not passive, and that needs it.
void check(Connection& connection, const ConsumerTopology& topology);

}  // namespace pillion::amqp
