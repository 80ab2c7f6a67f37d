#include "inbox/retrier.hpp"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <pillion/error.hpp>
#include <pillion/log.hpp>
#include <utility>

#include "base/failpoint.hpp"

namespace pillion::inbox {
namespace {

using std::chrono::milliseconds;

/// Another instance's parked events are found after this.
constexpr milliseconds kLook{1'000};
/// Deliveries must not wait for a thousand events that were held.
constexpr milliseconds kTurn{100};

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

Retrier::Retrier(std::string consumer, const ConsumerOptions& options, DeadLetterSink& deadLetters,
                 Counters& counters, NextLook& next, base::Random& random)
    : consumer_(std::move(consumer)),
      options_(options),
      deadLetters_(deadLetters),
      counters_(counters),
      next_(next),
      random_(random),
      deadLetterOutage_("consumer '" + consumer_ + "', dead letters") {}

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
  if (inHand_) with.inbox.giveBack(*inHand_);
  inHand_.reset();
  if (!next_.take(kLook)) return;
  const auto& clock = base::systemClock();
  const auto end = clock.boot() + kTurn;
  while (clock.boot() < end && !stop.stop_requested()) {
    const auto due = with.inbox.nextDueIn();
    if (!due || *due > milliseconds(0)) {
      next_.within(due ? std::min(*due, kLook) : kLook);
      return;
    }
    inHand_ = with.inbox.takeDue();
    if (!inHand_) return;  // another instance is at it
    work(*inHand_, with);
    inHand_.reset();
  }
  next_.within(milliseconds(0));
}

void Retrier::work(const ParkedEvent& event, const Handling& with) {
  if (!event.verdict.empty()) return giveUp(event, with);
  if (event.attempts > options_.retry.maxAttempts) {
    const std::string error = "the process ended during attempt " +
                              std::to_string(event.attempts - 1) + "; before: " + event.error;
    return noteFailure(event, {error, "handler-failed"}, with);
  }
  for (int repeats = 0;; ++repeats) {
    try {
      return apply(event, with);
    } catch (const HandlerFailed& failed) {
      if (with.watch.abandoned()) return with.inbox.giveBack(event);  // stop() cancelled it
      if (failed.failure().passing && repeats < kMostRepeats) continue;
      return noteFailure(event, failed.failure(), with);
    } catch (const BatchStopped& stopped) {
      return noteFailure(event, stopped.failure(), with);
    }
  }
}

void Retrier::apply(const ParkedEvent& event, const Handling& with) {
  const auto transaction = with.inbox.begin();
  if (!transaction->lock(event)) return;
  PILLION_FAILPOINT("parked.locked");
  const bool handled = attempt(*transaction, event, with);
  transaction->unpark(event, /*forget=*/false);
  PILLION_FAILPOINT("parked.handled");
  transaction->commit();
  PILLION_FAILPOINT("parked.committed");
  ++(handled ? counters_.applied : counters_.ignored);
}

/// False when nobody handles its type any more.
bool Retrier::attempt(InboxTransaction& transaction, const ParkedEvent& event,
                      const Handling& with) {
  const Handler* handler = with.handlers.find(event.identity.type);
  if (handler == nullptr) return false;
  handleEvent(transaction, *handler, event.job, with.watch);
  return true;
}

void Retrier::noteFailure(const ParkedEvent& event, const Failure& failure, const Handling& with) {
  ++counters_.failed;
  const Failure last = judged(failure, event.attempts);
  logger()->warn("consumer '{}': handler failed for parked event {} ({}), attempt {} of {}: {}",
                 consumer_, event.identity.id, event.identity.type, event.attempts,
                 options_.retry.maxAttempts, failure.error);
  const auto transaction = with.inbox.begin();
  if (!transaction->lock(event)) return;
  transaction->failAgain(event, last,
                         last.verdict.empty() ? waitAfter(event.attempts) : milliseconds(0));
  transaction->commit();
}

/// Confirmed first, forgotten then: a crash between the two leaves two copies in the dead-letter
/// queue, of which at most one is ever applied.
void Retrier::giveUp(const ParkedEvent& event, const Handling& with) {
  const auto transaction = with.inbox.begin();
  if (!transaction->lock(event)) return;
  try {
    deadLetters_.send(event.job.delivery, {.reason = event.verdict,
                                           .error = event.error,
                                           .attempts = event.attempts,
                                           .firstFailedAt = event.firstFailedAt,
                                           .lastFailedAt = event.lastFailedAt});
  } catch (const BrokerError& error) {
    deadLetterOutage_.began(error);  // holds up nothing but this event, and its key
    return;
  }
  deadLetterOutage_.ended();
  PILLION_FAILPOINT("parked.deadLettered");
  transaction->unpark(event, /*forget=*/true);
  transaction->commit();
  ++counters_.deadLettered;
  logger()->error("consumer '{}': event {} went to the dead-letter queue, {} after {} attempts",
                  consumer_, event.identity.id, event.verdict, event.attempts);
}

}  // namespace pillion::inbox
