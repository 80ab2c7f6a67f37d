#include <pillion/error.hpp>
#include <pillion/testing.hpp>
#include <utility>
#include <variant>

#include "amqp/message.hpp"
#include "base/wake_event.hpp"
#include "event/row.hpp"
#include "inbox/consumer_parts.hpp"
#include "inbox/delivery.hpp"
#include "inbox/postgres_inbox.hpp"

namespace pillion::testing {
namespace {

/// As a relay sends it, and a broker brings it.
std::variant<amqp::Message, amqp::Problem> received(const Event& event) {
  Row row = rowOf(event);
  if (row.source.empty()) row.source = "test";
  auto made = amqp::messageFrom(std::move(row));
  const auto* sent = std::get_if<amqp::Message>(&made);
  if (sent == nullptr) return made;
  amqp::Message message = *sent;
  message.attributes.reset();
  message.headers.clear();
  amqp::SentHeaders headers;
  for (const auto& [name, value] : headers.of(*sent)) message.headers.emplace_back(name, value);
  return message;
}

Delivered resultOf(inbox::Outcome outcome) {
  switch (outcome) {
    case inbox::Outcome::Duplicate:
      return {Outcome::Duplicate, ""};
    case inbox::Outcome::Ignored:
      return {Outcome::Ignored, ""};
    case inbox::Outcome::Discarded:
      return {Outcome::Invalid, "outside of the dedupe window"};
    default:
      return {Outcome::Applied, ""};
  }
}

/// Of one delivery, by itself.
Delivered resultOf(const inbox::Attempt& attempt) {
  using End = inbox::Attempt::End;
  const inbox::Failure& failure = attempt.failure;
  if (attempt.end == End::Done) return resultOf(attempt.outcomes.front());
  if (attempt.end == End::Lost) throw DatabaseError(*attempt.lost);
  if (attempt.end != End::Stopped) throw inbox::blockedClaim();
  if (!attempt.isEvent) return {Outcome::Invalid, failure.verdict + ": " + failure.error};
  return {failure.verdict.empty() ? Outcome::Failed : Outcome::Rejected, failure.error};
}

}  // namespace

struct HandlerDriver::State {
  explicit State(const inbox::ConsumerParts& consumer) : parts(consumer) {
    queue.opened(0);
    openInbox();
  }

  void openInbox() {
    inbox = std::make_unique<inbox::PostgresInbox>(parts.options.database, parts.topology.queue,
                                                   parts.options.dedupeWindow);
  }

  const inbox::ConsumerParts& parts;
  std::unique_ptr<inbox::PostgresInbox> inbox;  // null after an outage
  base::WakeEvent wake;
  inbox::DeliveryQueue queue{wake};
  inbox::HandlerWatch watch;
  std::uint64_t tag = 0;
};

HandlerDriver::HandlerDriver(const EventConsumer& consumer)
    : state_(std::make_unique<State>(consumer.parts())) {}

HandlerDriver::~HandlerDriver() = default;

Delivered HandlerDriver::deliver(const Event& event) {
  State& state = *state_;
  if (!state.inbox) state.openInbox();
  auto message = received(event);
  if (const auto* problem = std::get_if<amqp::Problem>(&message)) {
    return {Outcome::Invalid, problem->detail};
  }
  amqp::Delivery delivery;
  delivery.tag = ++state.tag;
  delivery.message = std::move(std::get<amqp::Message>(message));
  state.queue.push(std::move(delivery));
  const auto jobs = state.queue.pop({}, std::chrono::milliseconds(0), std::stop_token());
  state.queue.release(jobs);  // there is one delivery at a time
  const inbox::Handling handling{.handlers = state.parts.handlers,
                                 .inbox = *state.inbox,
                                 .queue = state.queue,
                                 .watch = state.watch,
                                 .parked = ParkedPolicy::Continue,
                                 .outsideWindow = state.parts.options.outsideWindow,
                                 .unhandled = UnhandledPolicy::Ignore};
  try {
    return resultOf(inbox::attemptBatch(jobs, handling));
  } catch (const DatabaseError&) {
    state.inbox.reset();
    throw;
  }
}

}  // namespace pillion::testing
