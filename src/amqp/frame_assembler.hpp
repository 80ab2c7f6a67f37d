#pragma once

#include <cstdint>
#include <optional>

#include "amqp/channel.hpp"
#include "amqp/library.hpp"

namespace pillion::amqp {

/// Makes whole messages of the frames of one channel: a method, for deliveries and returns followed
/// by a header and as many body frames as it announces (AMQP 0-9-1, section 4.2.6). Frames of
/// several channels may come interleaved, so each has an assembler of its own. Copies all it keeps,
/// since the library's memory is released after each frame. Of a body that is larger than an
/// event's may be it keeps nothing but the size (kBodyMissingHeader).
class FrameAssembler {
 public:
  explicit FrameAssembler(Road road = Road::Main) : road_(road) {}

  /// Something complete, or nothing yet.
  std::optional<Incoming> add(const amqp_frame_t& frame);

 private:
  std::optional<Incoming> addMethod(const amqp_method_t& method);
  std::optional<Incoming> addHeader(const amqp_frame_t& frame);
  std::optional<Incoming> addBody(amqp_bytes_t fragment);
  std::optional<Incoming> finishWhenComplete();

  Road road_;
  enum class Building { Nothing, Delivery, Return };
  Building building_ = Building::Nothing;
  Delivery delivery_;
  Returned returned_;
  std::uint64_t bodyMissing_ = 0;
  bool keepBody_ = true;  // the sender decides its size: one larger than an event's is not kept
};

}  // namespace pillion::amqp
