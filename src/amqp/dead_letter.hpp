#pragma once

#include <cstdint>
#include <pillion/dead_letters.hpp>
#include <string>

#include "amqp/channel.hpp"

// Dead letters on the wire: a message with the reason beside it, in `<queue>.dead`.
//
// | DeadLetter       | header written by a consumer  | of one that the broker moved       |
// |------------------|-------------------------------|------------------------------------|
// | reason           | pillion-dead-reason           | x-death, reason                    |
// | error            | pillion-dead-error            |                                    |
// | attempts         | pillion-dead-attempts         |                                    |
// | firstAt, lastAt  | pillion-dead-first-at, -at    |                                    |
// | exchange         | pillion-dead-exchange         | pillion-original-exchange, x-death |
// | routingKey       | pillion-dead-routing-key      | the same                           |
// | queue            | pillion-dead-queue            | x-death, queue                     |
//
// Consumers take `x-death` off, so a letter that has it is the broker's doing, and what its other
// headers say of its death is what its sender wrote.

namespace pillion::amqp {

/// Why a message could not be applied, as it is written into the dead letter.
struct Death {
  std::string reason;  // one word
  std::string error;   // at most a line; no payload
  int attempts = 0;
  std::string firstAt = {};  // RFC 3339; empty: now
  std::string lastAt = {};
};

/// The original with the reason beside it, for the dead-letter queue of this name. What was written
/// on its way is left behind: it is written anew. Every event keeps all its headers; of a message
/// that has more than an event may have those are left out that could not be sent again, since it
/// must not come back for ever.
Message deadLetter(const Delivery& delivery, const Death& death, const std::string& deadQueue);

/// What was taken from the dead-letter queue of the consumer's `queue`. A letter goes back to the
/// consumer that it comes from, whatever its headers say.
DeadLetter letterOf(const Delivery& delivery, const std::string& queue);

/// The letter as an event again: what was written on its way comes off, where it was published
/// first stays known.
Message redriven(const DeadLetter& letter, Message message, bool outsideWindow);

/// The same letter as a new message, for the dead-letter queue of this name: nobody has looked at
/// it yet.
Message renewed(const DeadLetter& letter, Message message, const std::string& deadQueue);

/// Can it be sent again? Not the body of one that the broker moved when it is larger than what is
/// read.
bool isWhole(const Message& letter);

/// How often it was taken and given back, which the broker counts against a delivery limit.
std::uint64_t timesReturned(const Message& letter);

}  // namespace pillion::amqp
