#include "inbox/delivery.hpp"

#include <pillion/error.hpp>
#include <variant>

#include "amqp/message.hpp"
#include "base/failpoint.hpp"
#include "event/event_id.hpp"
#include "event/timestamp.hpp"

namespace pillion::inbox {
namespace {

std::string madeAt(const Event& event) {
  const auto time = timeOfEventId(event.id());
  return "the event's id was made at " + (time ? toRfc3339(*time) : "an unknown time");
}

/// The order of these lines is the order that makes it safe: the ack is last, and the id commits
/// with the effects. A crash before the commit leaves nothing behind and the broker delivers again;
/// a crash after it leaves an id that makes the next delivery a duplicate.
Outcome apply(const Job& job, const HandlerTable& handlers, Inbox& inbox,
              DeadLetterSink& deadLetters) {
  const auto decoded = amqp::eventFrom(job.delivery.message);
  if (const auto* problem = std::get_if<amqp::Problem>(&decoded)) {
    deadLetters.send(job.delivery, {problem->reason, problem->detail, 0});
    return Outcome::DeadLettered;
  }
  const Event& event = std::get<Event>(decoded);
  const Handler* handler = handlers.find(event.type());
  if (handler == nullptr) return Outcome::Ignored;
  if (!inbox.remembers(event.id())) {
    deadLetters.send(job.delivery, {"outside-dedupe-window", madeAt(event), 0});
    return Outcome::DeadLettered;
  }
  const auto transaction = inbox.begin();
  PILLION_FAILPOINT("delivery.begun");
  const Claim claim = transaction->claim(event.id());
  if (claim == Claim::Duplicate) return Outcome::Duplicate;
  if (claim == Claim::Forgotten) {
    deadLetters.send(job.delivery, {"outside-dedupe-window", madeAt(event), 0});
    return Outcome::DeadLettered;
  }
  PILLION_FAILPOINT("delivery.claimed");
  transaction->run(*handler, event);
  PILLION_FAILPOINT("delivery.handled");
  transaction->commit();
  PILLION_FAILPOINT("delivery.committed");
  return Outcome::Applied;
}

}  // namespace

Outcome attemptDelivery(const Job& job, const HandlerTable& handlers, Inbox& inbox,
                        DeadLetterSink& deadLetters, DeliveryQueue& queue) {
  PILLION_FAILPOINT("delivery.received");
  const Outcome outcome = apply(job, handlers, inbox, deadLetters);
  queue.ack(job);
  PILLION_FAILPOINT("delivery.acked");
  return outcome;
}

}  // namespace pillion::inbox
