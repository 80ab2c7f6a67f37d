#pragma once

#include <string>

#include "inbox/dead_letters.hpp"
#include "inbox/delivery_queue.hpp"
#include "inbox/handler_table.hpp"
#include "inbox/inbox.hpp"

namespace pillion::inbox {

/// How a delivery ended. Each of them is acked.
enum class Outcome {
  Applied,       ///< effects and id committed together
  Duplicate,     ///< the id was there already
  Ignored,       ///< no handler for the type
  DeadLettered,  ///< can never be applied; a copy is in the dead-letter queue
};

/// One attempt at one delivery: decode, claim, handle, commit, ack.
///
/// Throws HandlerFailed when another attempt may do better, and DatabaseError or BrokerError when a
/// server is away. Nothing was acked then, and nothing was committed unless the error is in doubt;
/// the same delivery is to be tried again, and the inbox decides.
Outcome attemptDelivery(const Job& job, const HandlerTable& handlers, Inbox& inbox,
                        DeadLetterSink& deadLetters, DeliveryQueue& queue);

}  // namespace pillion::inbox
