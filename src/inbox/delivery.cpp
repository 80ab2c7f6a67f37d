#include "inbox/delivery.hpp"

#include <algorithm>
#include <cmath>
#include <pillion/error.hpp>
#include <variant>

#include "amqp/message.hpp"
#include "base/failpoint.hpp"
#include "event/event_id.hpp"
#include "event/timestamp.hpp"

namespace pillion::inbox {
namespace {

constexpr const char* kOutsideWindow = "outside-dedupe-window";
/// Set by an operator who redrives such a dead letter and knows that it was not applied.
constexpr const char* kApplyOutside = "pillion-outside-window";

std::string madeAt(const amqp::Identity& event) {
  const auto time = timeOfEventId(event.id);
  return "the event's id was made at " + (time ? toRfc3339(*time) : "an unknown time");
}

/// Decides what can be decided without the database. Nothing: it is to be claimed.
std::optional<Outcome> admit(const Job& job, std::size_t index, const Handling& with) {
  if (const auto* problem = std::get_if<amqp::Problem>(&job.identity)) {
    throw BatchStopped(index, {problem->detail, problem->reason}, false);
  }
  const amqp::Identity& event = *job.event();
  if (with.handlers.find(event.type) == nullptr) return Outcome::Ignored;
  if (with.outsideWindow == OutsideWindowPolicy::Apply || with.inbox.remembers(event.id) ||
      amqp::findHeader(job.delivery.message, kApplyOutside) != nullptr) {
    return std::nullopt;
  }
  if (with.outsideWindow == OutsideWindowPolicy::Discard) return Outcome::Discarded;
  throw BatchStopped(index, {madeAt(event), kOutsideWindow}, false);
}

Outcome apply(InboxTransaction& transaction, const Job& job, std::size_t index, Claim claim,
              const Handling& with) {
  const amqp::Identity& event = *job.event();
  if (claim == Claim::Duplicate) return Outcome::Duplicate;
  if (claim == Claim::Forgotten) {
    if (with.outsideWindow == OutsideWindowPolicy::DeadLetter) {
      throw BatchStopped(index, {madeAt(event), kOutsideWindow}, false);
    }
    if (with.outsideWindow == OutsideWindowPolicy::Discard) return Outcome::Discarded;
  }
  if (with.parked == ParkedPolicy::Hold && transaction.holdBack(job, event)) return Outcome::Held;
  try {
    handleEvent(transaction, *with.handlers.find(event.type), job, with.watch);
    return Outcome::Applied;
  } catch (const HandlerFailed& failed) {
    throw BatchStopped(index, failed.failure(), true);
  } catch (const BatchStopped& stopped) {
    throw BatchStopped(index, stopped.failure(), false);
  }
}

void commit(InboxTransaction& transaction, std::size_t size) {
  try {
    transaction.commit();
  } catch (const HandlerFailed& failed) {
    // Whose doing it was is not known: the smaller halves will tell.
    throw BatchStopped(size / 2, failed.failure(), true);
  }
}

}  // namespace

/// The order of these lines is the order that makes it safe: the acks are last, and the ids commit
/// with the effects. A crash before the commit leaves nothing behind and the broker delivers again;
/// a crash after it leaves ids that make the next deliveries duplicates.
std::vector<Outcome> attemptBatch(std::span<const Job> jobs, const Handling& with) {
  PILLION_FAILPOINT("delivery.received");
  std::vector<Outcome> outcomes(jobs.size());
  std::vector<std::size_t> open;
  std::vector<const amqp::Identity*> events;
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    if (const auto decided = admit(jobs[i], i, with)) {
      outcomes[i] = *decided;
      continue;
    }
    open.push_back(i);
    events.push_back(jobs[i].event());
  }
  if (!open.empty()) {
    const auto transaction = with.inbox.begin();
    PILLION_FAILPOINT("delivery.begun");
    const std::vector<Claim> claims = transaction->claim(events);
    PILLION_FAILPOINT("delivery.claimed");
    for (std::size_t n = 0; n < open.size(); ++n) {
      outcomes[open[n]] = apply(*transaction, jobs[open[n]], open[n], claims[n], with);
    }
    PILLION_FAILPOINT("delivery.handled");
    commit(*transaction, jobs.size());
    PILLION_FAILPOINT("delivery.committed");
  }
  for (const Job& job : jobs) with.queue.ack(job);
  PILLION_FAILPOINT("delivery.acked");
  return outcomes;
}

void handleEvent(InboxTransaction& transaction, const Handler& handler, const Job& job,
                 HandlerWatch& watch) {
  const auto decoded = amqp::eventFrom(job.delivery.message);
  if (const auto* problem = std::get_if<amqp::Problem>(&decoded)) {
    throw BatchStopped(0, {problem->detail, problem->reason}, false);
  }
  const Event& event = std::get<Event>(decoded);
  const HandlerWatch::Guard guard(watch, event.id(), event.type());
  transaction.run(handler, event);
  if (watch.abandoned()) throw Error("the consumer was stopped while the handler ran");
}

Outcome parkFailed(const Job& job, const Failure& failure, std::chrono::milliseconds wait,
                   const Handling& with) {
  const amqp::Identity* event = job.event();
  const auto transaction = with.inbox.begin();
  if (transaction->claim(std::span(&event, 1)).front() == Claim::Duplicate) {
    with.queue.ack(job);
    return Outcome::Duplicate;
  }
  transaction->park(job, *event, failure, wait);
  PILLION_FAILPOINT("delivery.parking");
  transaction->commit();
  PILLION_FAILPOINT("delivery.parked");
  with.queue.ack(job);
  return Outcome::Parked;
}

Outcome deadLetter(const Job& job, const Failure& failure, DeadLetterSink& deadLetters,
                   const Handling& with) {
  deadLetters.send(job.delivery, {.reason = failure.verdict, .error = failure.error});
  PILLION_FAILPOINT("delivery.deadLettered");
  with.queue.ack(job);
  return Outcome::DeadLettered;
}

std::chrono::milliseconds retryWait(const RetryPolicy& policy, int attempts, double random) {
  const double first = static_cast<double>(policy.first.count());
  const double most = static_cast<double>(policy.most.count());
  const double wait = std::min(most, first * std::pow(policy.factor, attempts - 1));
  return std::chrono::milliseconds(static_cast<std::int64_t>(wait * (1 - policy.jitter * random)));
}

}  // namespace pillion::inbox
