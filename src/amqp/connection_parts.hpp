#pragma once

#include <functional>

#include "amqp/connection.hpp"
#include "amqp/consumers.hpp"
#include "amqp/roads.hpp"
#include "amqp/wire.hpp"

namespace pillion::amqp {

/// What a connection is made of. Its calls are in connection.cpp, connection_topology.cpp and
/// connection_fences.cpp.
struct Connection::Parts {
  Parts(const BrokerOptions& options, const std::string& role, base::WakeEvent* wake)
      : wire(options, role, wake), roads(wire), consumers(wire) {}

  Wire wire;
  Roads roads;
  Consumers consumers;
  FrameAssembler assembler;  // of the connection's own channel
  FrameAssembler fenceAssembler;
  std::function<void()> beforeCall;
  bool handsOutCloses = false;
  bool fenceChannelIsOpen = false;
  std::vector<std::string> lostFences;

  [[nodiscard]] amqp_connection_state_t get() const { return wire.get(); }

  template <typename Request>
  void call(const std::string& doing, const Request& request, amqp_channel_t channel = kChannel) {
    if (beforeCall) beforeCall();
    wire.call(doing, request, channel);
  }

  struct Counts {
    std::uint32_t messages = 0;  // ready
    std::uint32_t consumers = 0;
  };
  /// Nothing when there is no such queue.
  std::optional<Counts> look(const std::string& queue);
  std::optional<Incoming> take(const amqp_frame_t& frame);
  bool declareFence(const std::string& name);
  void deleteFence(const std::string& name);
  void takeOfFences(const amqp_frame_t& frame);
};

}  // namespace pillion::amqp
