#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <pillion/options.hpp>
#include <stop_token>
#include <string>

#include "amqp/connection.hpp"
#include "amqp/topology.hpp"
#include "base/backoff.hpp"
#include "base/clock.hpp"
#include "base/outage.hpp"
#include "base/wake_event.hpp"
#include "inbox/delivery_queue.hpp"
#include "inbox/worker.hpp"

namespace pillion::inbox {

/// The thread that talks to the broker: keeps the topology, the connection and its heartbeats,
/// hands deliveries to the worker and sends its acks. Handlers never hold it up.
class Subscription {
 public:
  Subscription(const BrokerOptions& options, amqp::ConsumerTopology topology,
               std::uint16_t prefetch, DeliveryQueue& queue, base::WakeEvent& wake,
               Counters& counters);

  /// First contact with the broker; throws what waiting cannot heal.
  void open();
  void serve(const std::stop_token& stop);

 private:
  void connect();
  void settle(bool gotSomething);
  void pump(const std::stop_token& stop);
  void handle(amqp::Incoming incoming);
  void sendAcks();
  void pause(std::chrono::milliseconds limit, const std::stop_token& stop);

  BrokerOptions options_;
  amqp::ConsumerTopology topology_;
  std::uint16_t prefetch_;
  DeliveryQueue& queue_;
  base::WakeEvent& wake_;
  Counters& counters_;
  std::unique_ptr<amqp::Connection> connection_;
  std::optional<base::Clock::Boot> connectedAt_;  // until the connection has shown that it holds
  base::Outage outage_;
  base::Backoff backoff_;
};

}  // namespace pillion::inbox
