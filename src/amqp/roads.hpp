#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "amqp/channel.hpp"
#include "amqp/frame_assembler.hpp"
#include "amqp/login.hpp"
#include "amqp/wire.hpp"

namespace pillion::amqp {

/// The channels of a connection that publish and consume: the main road, which is open from the
/// beginning, and the second, which a relay opens when it needs it.
///
/// A channel is given up without waiting for the broker, which may never answer for one that hangs:
/// its road goes on under another number, and the old number, of which nothing is heard meanwhile,
/// is used again when its channel.close-ok came. The numbers are few, since the library keeps a
/// pool of memory for each.
class Roads {
 public:
  explicit Roads(Wire& wire) : wire_(wire) {}

  /// The main road's channel publishes with confirms to this exchange from now on.
  void selectConfirms(std::string exchange);

  std::uint64_t publish(Road road, const Message& message);
  void reopen(Road road);

  /// A frame that is neither the connection's nor a fence's.
  std::optional<Incoming> add(const amqp_frame_t& frame);

 private:
  struct Channel {
    amqp_channel_t number = 0;  // 0: closed
    std::uint64_t published = 0;
    FrameAssembler assembler{};
  };

  Channel& of(Road road) { return channels_[static_cast<std::size_t>(road)]; }
  void giveUp(Channel& channel);
  void answerClose(amqp_channel_t number);
  void addOfAbandoned(const amqp_frame_t& frame);

  Wire& wire_;
  std::string exchange_;
  std::array<Channel, 2> channels_{Channel{kChannel}, Channel{}};
  std::vector<amqp_channel_t> free_{18, 17, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3};
  std::vector<amqp_channel_t> abandoned_;
  SentHeaders headers_;
  std::vector<amqp_table_entry_t> entries_;  // of the message that is sent; kept for their memory
};

}  // namespace pillion::amqp
