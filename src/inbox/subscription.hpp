#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <pillion/consumer.hpp>
#include <stop_token>
#include <string>

#include "amqp/connection.hpp"
#include "amqp/topology.hpp"
#include "base/clock.hpp"
#include "base/once_an_hour.hpp"
#include "base/reconnect.hpp"
#include "base/wake_event.hpp"
#include "inbox/counters.hpp"
#include "inbox/delivery_queue.hpp"
#include "inbox/handler_watch.hpp"
#include "inbox/holdings.hpp"
#include "inbox/inbox_name.hpp"
#include "inbox/partition_change.hpp"
#include "inbox/queue_consumers.hpp"

namespace pillion::inbox {

/// The thread that talks to the broker: keeps the topology, the connection and its heartbeats,
/// hands deliveries to the worker and sends its acks. Handlers never hold it up.
class Subscription {
 public:
  Subscription(const BrokerOptions& options, amqp::ConsumerTopology topology,
               const ConsumerOptions& consumer, DeliveryQueue& queue, Holdings& holdings,
               const InboxName& inboxName, base::WakeEvent& wake, Counters& counters,
               HandlerWatch& watch);

  /// First contact with the broker; throws what waiting cannot heal.
  void open();
  /// Waits, for a moment at most, until the broker has said of all that is to be consumed whether
  /// it may be; throws what waiting cannot heal.
  void settle();
  void serve(const std::stop_token& stop);

 private:
  void connect();
  void disconnect();
  void declare(amqp::Connection& connection, base::Clock::Boot until);
  /// False when it is not known whose queue it is, or how many partitions there are now.
  bool noteTopology();
  void follow();
  void tell(Consumption now);
  void pump(const std::stop_token& stop);
  void handle(amqp::Incoming incoming);
  void sendAcks();
  void reportSlowHandlers();
  void lookAfterBindings();
  void pause(std::chrono::milliseconds limit, const std::stop_token& stop);

  BrokerOptions options_;
  amqp::ConsumerTopology topology_;
  std::chrono::milliseconds slowHandler_;
  std::chrono::milliseconds bindEvery_;
  std::chrono::milliseconds bindWait_;  // longer after looks that failed
  base::Clock::Boot nextBind_{0};
  base::Clock::Boot nextFollow_{0};
  base::OnceAnHour told_;
  DeliveryQueue& queue_;
  Holdings& holdings_;
  const InboxName& inboxName_;
  base::WakeEvent& wake_;
  Counters& counters_;
  HandlerWatch& watch_;
  std::unique_ptr<amqp::Connection> connection_;
  PrefetchPlan::Limits prefetch_;  // of all queues together
  QueueConsumers consumers_;
  PartitionChange change_;
  base::Reconnect broker_;
};

}  // namespace pillion::inbox
