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

void NextLook::within(std::chrono::nanoseconds wait) {
  const std::int64_t wanted = (clock_.boot() + wait).count();
  std::int64_t at = at_;
  while (wanted < at && !at_.compare_exchange_weak(at, wanted)) {
  }
}

bool NextLook::take(std::chrono::nanoseconds again) {
  const std::int64_t now = clock_.boot().count();
  std::int64_t at = at_;
  return at <= now && at_.compare_exchange_strong(at, now + again.count());
}

milliseconds NextLook::left() const {
  const std::chrono::nanoseconds left(at_ - clock_.boot().count());
  return std::max(milliseconds(0), std::chrono::ceil<milliseconds>(left));
}

Retrier::Retrier(std::string consumer, const ConsumerOptions& options, Counters& counters,
                 NextLook& next, base::OnceAnHour& told, base::WakeEvent& letters,
                 base::Random& random)
    : consumer_(std::move(consumer)),
      options_(options),
      counters_(counters),
      next_(next),
      told_(told),
      letters_(letters),
      random_(random) {}

milliseconds Retrier::waitAfter(int attempts) {
  const double random = static_cast<double>(random_.next() >> 11U) * 0x1.0p-53;
  const milliseconds wait = retryWait(options_.retry, attempts, random);
  next_.within(wait);
  return wait;
}

Failure Retrier::judged(Failure failure, int attempts) const {
  if (failure.verdict.empty() && attempts >= options_.retry.maxAttempts) {
    failure.verdict = "handler-failed";
  }
  return failure;
}

void Retrier::turn(const Handling& with, const std::stop_token& stop) {
  if (inHand_) {
    failed_ ? noteFailure(*inHand_, *failed_, with) : with.inbox.giveBack(*inHand_);
    failed_.reset();
    inHand_.reset();
    next_.within(milliseconds(0));
  }
  if (!next_.take(kLook)) return;
  const auto& clock = base::systemClock();
  const auto end = clock.boot() + kTurn;
  while (clock.boot() < end && !stop.stop_requested()) {
    inHand_ = with.inbox.takeDue(left_);
    if (!inHand_) {  // or another instance is at it
      const auto due = with.inbox.nextDueIn();
      if (due && *due > milliseconds(0)) next_.within(std::min(*due, kLook));
      return;
    }
    work(*inHand_, with);
    inHand_.reset();
  }
  next_.within(milliseconds(0));
}

void Retrier::work(const ParkedEvent& event, const Handling& with) {
  const Handler* handler = with.handlers.find(event.identity.type);
  if (handler == nullptr) return leaveToOthers(event, with);
  if (event.attempts > options_.retry.maxAttempts) {
    const std::string error = "the process ended during attempt " +
                              std::to_string(options_.retry.maxAttempts) +
                              ", or what came of it could not be recorded; before: " + event.error;
    if (giveUp(event, {error, "handler-failed"}, options_.retry.maxAttempts, with)) return;
    return postpone(event, {event.error, ""}, with);
  }
  int along = event.along;
  for (int repeats = 0;; ++repeats) {
    try {
      return apply(event, along, with);
    } catch (const HandlerFailed& failed) {
      if (with.watch.abandoned()) return with.inbox.giveBack(event);  // stop() cancelled it
      if (std::exchange(along, 0) > 0) continue;
      if (failed.failure().passing && repeats < kMostRepeats) continue;
      return noteFailure(event, failed.failure(), with);
    } catch (const BatchStopped& stopped) {
      if (with.watch.abandoned()) return with.inbox.giveBack(event);
      if (along == 0) return noteFailure(event, stopped.failure(), with);
      along = std::max(0, static_cast<int>(stopped.index()) - 1);  // those before that one
    } catch (const LostInHandler& lost) {
      if (along == 0 && losses_.lost(event.identity.id)) failed_ = LossesInARow::failureOf(lost);
      throw;
    }
  }
}

/// One transaction for an event and some behind it.
void Retrier::apply(const ParkedEvent& event, int along, const Handling& with) {
  const auto transaction = with.inbox.begin();
  if (!transaction->lock(event)) return;
  std::vector<ParkedEvent> behind;
  if (along > 0) behind = transaction->lockBehind(event, along);
  PILLION_FAILPOINT("parked.locked");
  try {
    handleEvent(*transaction, *with.handlers.find(event.identity.type), event.job, with.watch);
    const bool usesTransaction = with.handlers.usesTransaction(event.identity.type);
    behind.resize(handleBehind(*transaction, behind, usesTransaction, with));
    transaction->unpark(event, behind);
  } catch (const ServerAilment&) {
    throw;
  } catch (const DatabaseError& error) {
    throw LostInHandler(0, error);
  }
  PILLION_FAILPOINT("parked.handled");
  transaction->commit();
  PILLION_FAILPOINT("parked.committed");
  counters_.applied += behind.size() + 1;
}

/// Returns how many were handled: so many as take no longer than a turn.
std::size_t Retrier::handleBehind(InboxTransaction& transaction,
                                  std::span<const ParkedEvent> events, bool usesTransaction,
                                  const Handling& with) {
  const auto end = base::systemClock().boot() + kTurn;
  for (std::size_t n = 0; n < events.size(); ++n) {
    const std::string& type = events[n].identity.type;
    const Handler* handler = with.handlers.find(type);
    if (handler == nullptr || with.handlers.usesTransaction(type) != usesTransaction) return n;
    if (base::systemClock().boot() > end) return n;
    try {
      handleEvent(transaction, *handler, events[n].job, with.watch);
    } catch (const HandlerFailed& failed) {
      throw BatchStopped(n + 1, failed.failure(), true);
    } catch (const BatchStopped& stopped) {
      throw BatchStopped(n + 1, stopped.failure(), false);
    }
  }
  return events.size();
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
    base::log.error("consumer '{}': parked event {} is given up: {}", consumer_, event.identity.id,
                    nobody.error);
    return;
  }
  if (!told_.mayTell("unhandled " + type)) return;
  base::log.warn(
      "consumer '{}': parked events of type '{}' have no handler here; they are left to"
      " other instances, and given up when none has one for an hour",
      consumer_, type);
}

void Retrier::noteFailure(const ParkedEvent& event, const Failure& failure, const Handling& with) {
  ++counters_.failed;
  const Failure last = judged(failure, event.attempts);
  base::log.warn("consumer '{}': handler failed for parked event {} ({}), attempt {} of {}: {}",
                 consumer_, event.identity.id, event.identity.type, event.attempts,
                 options_.retry.maxAttempts, failure.error);
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
  letters_.signal();
  ++counters_.deadLettered;
  return true;
}

void Retrier::tellRefusal(const std::string& eventId, const Error& refused) {
  if (!told_.mayTell(eventId)) return;
  base::log.error("consumer '{}': event {} cannot go to the dead-letter queue: {}", consumer_,
                  eventId, refused.what());
}

}  // namespace pillion::inbox
