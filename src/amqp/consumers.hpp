#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "amqp/channel.hpp"
#include "amqp/frame_assembler.hpp"
#include "amqp/wire.hpp"

namespace pillion::amqp {

/// The consumers of a connection, each on a channel of its own. One that is refused, or given up,
/// ends alone; and the end of its channel gives back all that it was sent in one step, before the
/// queue's next consumer gets anything. (After a basic.cancel it would keep what it was sent, and
/// where it was the single active consumer the next one would get what comes behind that.)
///
/// Nothing here waits for the broker, which may never answer for one queue.
class Consumers {
 public:
  explicit Consumers(Wire& wire) : wire_(wire) {}

  std::uint64_t open(const std::string& queue, std::uint16_t prefetch);
  void ack(std::uint64_t consumer, std::uint64_t tag, bool multiple);
  void cancel(std::uint64_t consumer);
  void end(std::uint64_t consumer);

  [[nodiscard]] bool owns(amqp_channel_t number) const { return byNumber_.contains(number); }
  std::optional<Incoming> add(const amqp_frame_t& frame);

 private:
  struct Consumer {
    std::uint64_t id = 0;
    std::string queue;
    bool ending = false;  // channel.close is on its way; what still comes is the queue's again
    FrameAssembler assembler{};
  };

  amqp_channel_t freeNumber();
  std::optional<Incoming> addOfEnding(const amqp_frame_t& frame);
  ConsumerEnded remove(amqp_channel_t number);
  void answerClose(amqp_channel_t number);

  Wire& wire_;
  std::map<amqp_channel_t, Consumer> byNumber_;
  std::map<std::uint64_t, amqp_channel_t> byId_;
};

}  // namespace pillion::amqp
