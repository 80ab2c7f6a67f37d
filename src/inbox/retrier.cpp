#include "inbox/retrier.hpp"

#include <algorithm>
#include <pillion/error.hpp>
#include <utility>

#include "base/failpoint.hpp"
#include "base/log_line.hpp"

namespace pillion::inbox {
namespace {

using std::chrono::milliseconds;

/// Another instance's parked events are found after this.
constexpr milliseconds kLook{1'000};
/// Deliveries must not wait for a thousand events that were held.
constexpr milliseconds kTurn{100};
constexpr std::size_t kMostLeft = 100;  // types without a handler that are kept in mind

}  // namespace

milliseconds Retrier::waitAfter(int attempts) {
  const double random = static_cast<double>(random_.next() >> 11U) * 0x1.0p-53;
  const milliseconds wait = retryWait(shared_.options.retry, attempts, random);
  shared_.nextLook.within(wait);
  return wait;
}

Failure Retrier::judged(Failure failure, int attempts) const {
  if (failure.verdict.empty() && attempts >= shared_.options.retry.maxAttempts) {
    failure.verdict = "handler-failed";
  }
  return failure;
}

void Retrier::turn(const Handling& with, const std::stop_token& stop) {
  if (inHand_) {
    failed_ ? noteFailure(*inHand_, *failed_, with) : with.inbox.giveBack(*inHand_);
    failed_.reset();
    inHand_.reset();
    shared_.nextLook.within(milliseconds(0));
  }
  if (!shared_.nextLook.take(kLook)) return;
  const auto& clock = base::systemClock();
  const auto end = clock.boot() + kTurn;
  while (clock.boot() < end && !stop.stop_requested()) {
    inHand_ = with.inbox.takeDue(left_);
    if (!inHand_) {  // or another instance is at it
      const auto due = with.inbox.nextDueIn();
      if (due && *due > milliseconds(0)) shared_.nextLook.within(std::min(*due, kLook));
      return;
    }
    work(*inHand_, with);
    inHand_.reset();
  }
  shared_.nextLook.within(milliseconds(0));
}

void Retrier::work(const ParkedEvent& event, const Handling& with) {
  const Handler* handler = with.handlers.find(event.identity.type);
  if (handler == nullptr) return leaveToOthers(event, with);
  if (event.attempts > shared_.options.retry.maxAttempts) {
    const std::string error = "the process ended during attempt " +
                              std::to_string(shared_.options.retry.maxAttempts) +
                              ", or what came of it could not be recorded; before: " + event.error;
    if (giveUp(event, {error, "handler-failed"}, shared_.options.retry.maxAttempts, with)) return;
    return postpone(event, {event.error, ""}, with);
  }
  int along = event.along;
  for (int repeats = 0;; ++repeats) {
    const Attempt attempt = apply(event, along, with);
    if (attempt.end == Attempt::End::Done) return;
    if (attempt.end == Attempt::End::Lost) {
      if (along == 0 && losses_.lost(event.identity.id)) {
        failed_ = LossesInARow::failureOf(*attempt.lost);
      }
      throw DatabaseError(*attempt.lost);
    }
    if (with.watch.abandoned()) return with.inbox.giveBack(event);  // stop() cancelled it
    if (along > 0) {
      along = std::max(0, static_cast<int>(attempt.index) - 1);  // those before that one
    } else if (!attempt.failure.passing || repeats >= kMostRepeats) {
      return noteFailure(event, attempt.failure, with);
    }
  }
}

/// One transaction for an event and some behind it, which are delivery 0 and the next.
Attempt Retrier::apply(const ParkedEvent& event, int along, const Handling& with) {
  const auto transaction = with.inbox.begin();
  std::vector<ParkedEvent> behind;
  try {
    if (!transaction->lock(event)) return {};
    if (along > 0) behind = transaction->lockBehind(event, along);
    PILLION_FAILPOINT("parked.locked");
    const std::string& type = event.identity.type;
    const auto ended = lostOr(0, [&]() -> std::optional<Attempt> {
      if (auto first =
              handleEvent(*transaction, *with.handlers.find(type), event.job, 0, with.watch))
        return first;
      if (auto later =
              handleBehind(*transaction, behind, with.handlers.usesTransaction(type), with))
        return later;
      transaction->unpark(event, behind);
      return std::nullopt;
    });
    if (ended) return *ended;
    PILLION_FAILPOINT("parked.handled");
    transaction->commit();
  } catch (const HandlerFailed& failed) {
    return Attempt::stopped(0, failed.failure());
  }
  PILLION_FAILPOINT("parked.committed");
  shared_.counters.applied += behind.size() + 1;
  return {};
}

/// Keeps those that were handled: so many as take no longer than a turn.
std::optional<Attempt> Retrier::handleBehind(InboxTransaction& transaction,
                                             std::vector<ParkedEvent>& events, bool usesTransaction,
                                             const Handling& with) {
  const auto end = base::systemClock().boot() + kTurn;
  std::size_t n = 0;
  for (; n < events.size() && base::systemClock().boot() <= end; ++n) {
    const std::string& type = events[n].identity.type;
    const Handler* handler = with.handlers.find(type);
    if (handler == nullptr || with.handlers.usesTransaction(type) != usesTransaction) break;
    auto ended = handleEvent(transaction, *handler, events[n].job, n + 1, with.watch);
    if (ended) return ended;
  }
  events.resize(n);
  return std::nullopt;
}

/// An instance of another version may have parked it, which is still there, or comes back.
void Retrier::leaveToOthers(const ParkedEvent& event, const Handling& with) {
  const std::string type = errorLine(event.identity.type);
  if (std::ranges::find(left_, event.identity.type) == left_.end()) {
    if (left_.size() >= kMostLeft) left_.clear();
    left_.push_back(event.identity.type);
  }
  const Failure nobody{"no instance has had a handler for events of type '" + type + "'",
                       "no-handler"};
  if (!with.inbox.leaveToOthers(event)) {
    if (!giveUp(event, nobody, event.attempts - 1, with)) return postpone(event, nobody, with);
    base::log.error("consumer '{}': parked event {} is given up: {}", shared_.consumer,
                    event.identity.id, nobody.error);
    return;
  }
  if (!shared_.told.mayTell("unhandled " + type)) return;
  base::log.warn(
      "consumer '{}': parked events of type '{}' have no handler here; they are left to"
      " other instances, and given up when none has one for an hour",
      shared_.consumer, type);
}

void Retrier::noteFailure(const ParkedEvent& event, const Failure& failure, const Handling& with) {
  ++shared_.counters.failed;
  const Failure last = judged(failure, event.attempts);
  base::log.warn("consumer '{}': handler failed for parked event {} ({}), attempt {} of {}: {}",
                 shared_.consumer, event.identity.id, event.identity.type, event.attempts,
                 shared_.options.retry.maxAttempts, failure.error);
  if (!last.verdict.empty() && giveUp(event, last, event.attempts, with)) return;
  postpone(event, last, with);
}

void Retrier::postpone(const ParkedEvent& event, const Failure& failure, const Handling& with) {
  const auto transaction = with.inbox.begin();
  if (!transaction->lock(event)) return;
  transaction->failAgain(event, failure, waitAfter(event.attempts));
  transaction->commit();
}

/// In one transaction: an event is parked or a dead letter, and never both or neither.
bool Retrier::giveUp(const ParkedEvent& event, const Failure& failure, int attempts,
                     const Handling& with) {
  try {
    const auto transaction = with.inbox.begin();
    if (!transaction->lock(event)) return true;
    transaction->giveUp(event, failure, attempts);
    PILLION_FAILPOINT("parked.givingUp");
    transaction->commit();
  } catch (const HandlerFailed& refused) {
    if (refused.failure().passing) throw;
    tellRefusal(event.identity.id, refused);
    return false;
  } catch (const ConfigError& refused) {
    tellRefusal(event.identity.id, refused);
    return false;
  }
  PILLION_FAILPOINT("parked.givenUp");
  shared_.letters.signal();
  ++shared_.counters.deadLettered;
  return true;
}

void Retrier::tellRefusal(const std::string& eventId, const Error& refused) {
  if (!shared_.told.mayTell(eventId)) return;
  base::log.error("consumer '{}': event {} cannot go to the dead-letter queue: {}",
                  shared_.consumer, eventId, refused.what());
}

}  // namespace pillion::inbox
