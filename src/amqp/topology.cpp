#include "amqp/topology.hpp"

#include <algorithm>
#include <pillion/error.hpp>

#include "amqp/reply.hpp"

namespace pillion::amqp {
namespace {

/// As good as none, in a form that every version of the broker takes: looking at dead letters must
/// not use them up.
constexpr std::int64_t kUnlimited = 1'000'000'000;

QueueSpec deadLetterSpec(const std::string& name) {
  return {.name = name,
          .exclusive = false,
          .textArguments = {{"x-queue-type", "quorum"}},
          .numberArguments = {{"x-delivery-limit", kUnlimited}}};
}

/// Every argument is explicit, since the brokers' defaults differ by version. Dead-lettering by the
/// broker itself, which only the delivery limit causes, is at-least-once, which in turn asks for
/// reject-publish; without a maximum length that rejects nothing.
QueueSpec queueSpec(const ConsumerTopology& topology, const std::string& name) {
  return {.name = name,
          .exclusive = false,
          .textArguments = {{"x-queue-type", "quorum"},
                            {"x-dead-letter-exchange", ""},
                            {"x-dead-letter-routing-key", topology.deadLetterQueue()},
                            {"x-dead-letter-strategy", "at-least-once"},
                            {"x-overflow", "reject-publish"}},
          .numberArguments = {{"x-delivery-limit", topology.deliveryLimit}},
          .singleActiveConsumer = topology.partitions > 0};
}

using Headers = std::vector<std::pair<std::string, std::string>>;

Headers headersOfLane(int lane) {
  return {{"x-match", "all"}, {kLaneHeader, std::to_string(lane)}};
}

/// What each lane is bound by. Whoever has no lane comes through the other exchange, to the first.
template <typename Each>
void forEachLane(const ConsumerTopology& topology, Each each) {
  const auto queues = topology.queues();
  each(queues.front(), topology.unkeyedExchange(), "", Headers{});
  for (int lane = 0; lane < kLanes; ++lane) {
    const auto& queue = queues[static_cast<std::size_t>(lane) % queues.size()];
    each(queue, topology.partitionExchange(), std::to_string(lane), headersOfLane(lane));
  }
}

void bindPartitions(Connection& connection, const ConsumerTopology& topology) {
  connection.declareExchange(topology.unkeyedExchange(), "fanout", "");
  connection.declareExchange(topology.partitionExchange(), "headers", topology.unkeyedExchange());
  forEachLane(topology,
              [&](const std::string& queue, const std::string& exchange, const std::string& key,
                  const Headers& headers) { connection.bindQueue(queue, exchange, key, headers); });
  // Last, so that nothing arrives before there is a place for it.
  for (const std::string& pattern : topology.patterns) {
    connection.bindExchange(topology.partitionExchange(), topology.exchange, pattern);
  }
}

void declareOrExplain(Connection& connection, const QueueSpec& queue) {
  try {
    connection.declareQueue(queue);
  } catch (const ConfigError& error) {
    // RabbitMQ's words for a queue that is there with other arguments. To delete it mends nothing
    // else.
    const std::string text = error.what();
    if (text.find("inequivalent arg") == std::string::npos) throw;
    throw ConfigError(text +
                      "; use the queue's own settings, another queue name, or delete the queue");
  }
}

/// The queue belongs to this inbox, or to none yet.
void claimQueue(Connection& connection, const ConsumerTopology& topology) {
  try {
    connection.declareExchange(topology.markerExchange(), "fanout", topology.inbox);
  } catch (const AccessRefused&) {
    throw;
  } catch (const ConfigError& error) {
    throw WrongInbox("queue '" + topology.queue + "' is another inbox's, this one is '" +
                     topology.inbox + "' (" + error.what() +
                     "): two databases cannot share a queue; use another subscription, or, when "
                     "the database was moved here, run: pillion adopt --queue " +
                     topology.queue);
  }
}

void declareQueues(Connection& connection, const ConsumerTopology& topology) {
  for (const std::string& queue : topology.queues()) {
    declareOrExplain(connection, queueSpec(topology, queue));
  }
}

}  // namespace

std::vector<std::string> ConsumerTopology::queues() const {
  if (partitions == 0) return {queue};
  std::vector<std::string> names;
  names.reserve(static_cast<std::size_t>(partitions));
  for (int i = 0; i < partitions; ++i) names.push_back(partitionQueue(i));
  return names;
}

void ensureExchange(Connection& connection, const std::string& exchange, bool declareMissing) {
  if (declareMissing) {
    try {
      connection.declareTopicExchange(exchange);
      return;
    } catch (const AccessRefused&) {
      // A user who may only publish: good enough when somebody else has made it. (Looking first
      // would not do, a passive declaration does not compare the type.)
      if (!connection.exchangeExists(exchange)) throw;
      return;
    }
  }
  if (!connection.exchangeExists(exchange)) {
    throw ConfigError("exchange '" + exchange +
                      "' does not exist and declareTopology is off; ask the broker's operator");
  }
}

void adoptQueue(Connection& connection, const ConsumerTopology& topology) {
  connection.deleteExchange(topology.markerExchange());
  claimQueue(connection, topology);
}

void declare(Connection& connection, const ConsumerTopology& topology) {
  claimQueue(connection, topology);
  ensureExchange(connection, topology.exchange, true);
  declareDeadLetterQueue(connection, topology.deadLetterQueue());
  declareQueues(connection, topology);
  if (topology.partitions > 0) {
    bindPartitions(connection, topology);
    return;
  }
  for (const std::string& pattern : topology.patterns) {
    connection.bindQueue(topology.queue, topology.exchange, pattern);
  }
}

void declareBeside(Connection& connection, const ConsumerTopology& present,
                   const ConsumerTopology& next) {
  declareQueues(connection, present);
  declare(connection, next);
}

void unbindQueues(Connection& connection, const ConsumerTopology& topology) {
  forEachLane(topology, [&](const std::string& queue, const std::string& exchange,
                            const std::string& key, const Headers& headers) {
    connection.unbindQueue(queue, exchange, key, headers);
  });
}

void unbindRetired(Connection& connection, const ConsumerTopology& present,
                   const std::function<bool(const std::string& queue)>& isKnown,
                   const std::function<void(const RetiredQueue&)>& tell) {
  ConsumerTopology before = present;
  before.generation = std::max(1, present.generation - kMostGenerations);
  for (; before.generation < present.generation; ++before.generation) {
    const std::string first = before.partitionQueue(0);
    if (!connection.queueExists(first)) continue;
    for (int partition = 0; partition < kLanes; ++partition) {
      const std::string queue = before.partitionQueue(partition);
      if (isKnown(queue) || !connection.queueExists(queue)) continue;
      for (int lane = 0; lane < kLanes; ++lane) {
        connection.unbindQueue(queue, before.partitionExchange(), std::to_string(lane),
                               headersOfLane(lane));
      }
      connection.unbindQueue(queue, before.unkeyedExchange(), "");
      tell({.name = queue, .first = first});
    }
  }
}

void declareDeadLetterQueue(Connection& connection, const std::string& name) {
  declareOrExplain(connection, deadLetterSpec(name));
}

void check(Connection& connection, const ConsumerTopology& topology) {
  std::vector<std::string> exchanges{topology.exchange};
  if (topology.partitions > 0) {
    exchanges.push_back(topology.partitionExchange());
    exchanges.push_back(topology.unkeyedExchange());
  }
  for (const std::string& exchange : exchanges) ensureExchange(connection, exchange, false);
  auto queues = topology.queues();
  queues.push_back(topology.deadLetterQueue());
  for (const std::string& queue : queues) {
    if (connection.queueExists(queue)) continue;
    throw ConfigError("queue '" + queue +
                      "' does not exist and declareTopology is off; ask the broker's operator");
  }
}

}  // namespace pillion::amqp
