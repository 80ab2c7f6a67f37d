#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <pillion/options.hpp>
#include <string>
#include <vector>

#include "amqp/channel.hpp"
#include "amqp/url.hpp"
#include "base/wake_event.hpp"

namespace pillion::amqp {

/// What a queue is declared with. Every declaration of one queue must repeat the same arguments.
struct QueueSpec {
  std::string name;
  bool exclusive = false;  // ends with the connection; else durable
  std::vector<std::pair<std::string, std::string>> textArguments = {};
  std::vector<std::pair<std::string, std::int64_t>> numberArguments = {};
  bool singleActiveConsumer = false;
};

/// One connection over rabbitmq-c, with one channel; a relay has two to publish on, see
/// `openRoads`.
///
/// Reads frames itself: the library's own message readers wait without a limit and lose confirms.
/// Threads: one, for its whole life.
class Connection : public PublishChannel {
 public:
  /// Connects to the first of the URL's hosts that will do, logs in and opens the channel. The next
  /// connection of the process begins with the same host, or behind it when this one was not closed
  /// in good order. `role` names the connection for operators. `wake`,
  /// when given, ends a wait early; it must outlive the connection. Throws ConfigError for what
  /// waiting cannot heal (unknown host, refused login, no such vhost), else BrokerError.
  Connection(const BrokerOptions& options, const std::string& role,
             base::WakeEvent* wake = nullptr);
  ~Connection() override;
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  /// "host:port" of the node that it is connected to, for messages.
  [[nodiscard]] std::string where() const;

  /// Asked before each of the calls about topology from now on: what it throws ends them.
  void beforeCalls(std::function<void()> check);

  // Topology, before anything is published or consumed. A refusal ends the channel, which is opened
  // again, and throws ConfigError with the broker's own words.
  bool exchangeExists(const std::string& name);
  void declareTopicExchange(const std::string& name);
  /// Of another type; unmatched messages go to `alternate`, unless that is empty.
  void declareExchange(const std::string& name, const std::string& type,
                       const std::string& alternate);
  /// One that is not there is gone already.
  void deleteExchange(const std::string& name);
  void bindExchange(const std::string& destination, const std::string& source,
                    const std::string& routingKey);
  bool queueExists(const std::string& name);
  /// Messages that are ready; nothing when there is no such queue. 0, too, when the queue does not
  /// answer the broker.
  std::optional<std::uint32_t> messageCount(const std::string& queue);
  /// Who consumes from it; nothing when there is no such queue.
  std::optional<std::uint32_t> consumerCount(const std::string& queue);
  /// With all that is in it. One that is not there is gone already.
  void deleteQueue(const std::string& name);
  void declareQueue(const QueueSpec& queue);
  /// `headers`: what a headers exchange is to look for.
  void bindQueue(const std::string& queue, const std::string& exchange,
                 const std::string& routingKey,
                 const std::vector<std::pair<std::string, std::string>>& headers = {});
  /// One that is not there is gone already.
  void unbindQueue(const std::string& queue, const std::string& exchange,
                   const std::string& routingKey,
                   const std::vector<std::pair<std::string, std::string>>& headers = {});

  // Fences, at any time: they have a channel of their own.
  /// False when another connection holds an exclusive queue of this name.
  bool holdExclusiveQueue(const std::string& name);
  void dropExclusiveQueue(const std::string& name);
  /// Does nobody hold one of this name? Leaves none behind.
  bool isExclusiveQueueFree(const std::string& name);
  /// Those that were held and are gone: deleted by an operator, or with their node. Known as soon
  /// as `receive` has read that far.
  std::vector<std::string> takeLostQueues();

  // Publishing. A channel that the broker closes ends the connection: BrokerError is thrown.
  void selectConfirms(std::string exchange);
  std::uint64_t publish(const Message& message) { return publish(Road::Main, message); }

  // Publishing on two roads, as a relay does, instead: the main one is open with this call, and
  // from now on `receive` hands out ChannelClosed. No topology call, no consumer afterwards.
  void openRoads(std::string exchange);
  std::uint64_t publish(Road road, const Message& message) override;
  void reopen(Road road) override;
  void beginBurst() override;
  void endBurst() override;

  // Consuming, with manual acks. Each consumer has a channel of its own, and none of these waits:
  // `receive` tells what became of it, and of its refusal as of its end.
  /// Returns the consumer's number. A prefetch of 0 is none: the broker sends all
  /// it has.
  std::uint64_t consume(const std::string& queue, std::uint16_t prefetch);
  /// `multiple`: this one and all before it. Nothing is sent for a consumer that has ended.
  void ack(std::uint64_t consumer, std::uint64_t tag, bool multiple = false);
  void ack(const Delivery& delivery) { ack(delivery.consumer, delivery.tag); }
  /// It gets nothing more, but for what is on its way, and keeps what it has until its end.
  void cancelConsumer(std::uint64_t consumer);
  /// Gives everything that it was sent and has not acked back to its queue; ConsumerEnded follows.
  void endConsumer(std::uint64_t consumer);

  std::optional<Incoming> receive(std::chrono::microseconds wait) override;

  /// Closes in good order, within two seconds. The destructor alone drops the connection.
  void close() noexcept;

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

/// Publishes one message to an exchange or (empty exchange) a queue and waits for the broker's
/// word. True when it was confirmed and routed. Throws BrokerError when that cannot be known, at
/// once PublishersBlocked when the broker says so.
bool publishAndWait(Connection& connection, const Message& message,
                    std::chrono::milliseconds limit);

}  // namespace pillion::amqp
