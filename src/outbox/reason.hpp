#pragma once

#include <optional>
#include <string_view>

namespace pillion::outbox {

/// Why an event is parked. Stored as its text.
enum class Reason {
  // What is sick is the type: its later events are parked unsent, and one of them probes it.
  Unroutable,   // confirmed after a basic.return: no queue has it
  Nacked,       // a queue refuses it for now: it is full, or its process ended
  Unconfirmed,  // neither confirmed nor nacked for too long, or one of those over which the broker
                // may have closed the channel
  Forbidden,    // the user may not write its routing key
  // What is sick is the event.
  Refused,  // the broker closed the channel over it alone: larger than it takes
  Invalid,  // no message can be made of it
  Suspect,  // relays have ended while they handled it
  // Nothing is: it waits behind an earlier event of its key.
  Held,
};

/// Is every event of the type as sick as the one that was tried?
constexpr bool isOfType(Reason reason) {
  return reason <= Reason::Forbidden;
}

/// Does it hold its key, whatever the policy says? A queue that has not taken an event takes it
/// later, in the place where it comes then; so those behind it must not overtake.
constexpr bool alwaysHolds(Reason reason) {
  return reason == Reason::Nacked || reason == Reason::Unconfirmed || reason == Reason::Held;
}

std::string_view textOf(Reason reason);
/// Nothing for a text that is none of them: somebody wrote the row by hand.
std::optional<Reason> reasonFrom(std::string_view text);

}  // namespace pillion::outbox
