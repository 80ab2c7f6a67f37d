#include "inbox/worker.hpp"

#include <algorithm>
#include <pillion/error.hpp>

#include "base/log_line.hpp"
#include "base/pause.hpp"
#include "event/event_id.hpp"
#include "inbox/inbox_parked_table.hpp"
#include "postgres/connection.hpp"

namespace pillion::inbox {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kIdle{1'000};
constexpr std::chrono::hours kForgetEvery{1};
constexpr std::chrono::hours kWarnEvery{1};
constexpr std::chrono::minutes kWarnOfBlockEvery{1};
/// Longer than a key is set aside.
constexpr std::chrono::minutes kImpatient{1};

/// These come first, and all keep their order otherwise. Returns how many they are.
std::size_t bringForward(std::span<Job> jobs, const std::vector<std::size_t>& indices) {
  std::vector<Job> chosen;
  std::vector<Job> others;
  auto next = indices.begin();
  for (std::size_t index = 0; index < jobs.size(); ++index) {
    const bool isChosen = next != indices.end() && *next == index;
    if (isChosen) ++next;
    (isChosen ? chosen : others).push_back(std::move(jobs[index]));
  }
  std::ranges::move(others, std::ranges::move(chosen, jobs.begin()).out);
  return chosen.size();
}

}  // namespace

Worker::Worker(const Shared& shared)
    : shared_(shared),
      retrier_(shared),
      batchSize_(static_cast<std::size_t>(shared.options.batchEvents)) {}

void Worker::open() {
  try {
    openInbox();
  } catch (const Error& error) {
    if (!error.retryable()) throw;
    shared_.database->failed(this, error);
  }
}

void Worker::openInbox() {
  auto fresh = std::make_unique<PostgresInbox>(shared_.options.database, shared_.consumer,
                                               shared_.options.dedupeWindow);
  closeInbox();
  inbox_ = std::move(fresh);
  shared_.inboxName.set(inbox_->identity());
  const base::MutexLock lock(cancelMutex_);
  cancellable_ = inbox_.get();
}

void Worker::closeInbox() {
  {
    const base::MutexLock lock(cancelMutex_);
    cancellable_ = nullptr;
  }
  inbox_.reset();
}

void Worker::cancelQuery() {
  const base::MutexLock lock(cancelMutex_);
  if (cancellable_ != nullptr) cancellable_->cancelQuery();
}

Handling Worker::handling() {
  if (!inbox_) openInbox();
  return {.handlers = shared_.handlers,
          .inbox = *inbox_,
          .queue = shared_.queue,
          .watch = shared_.watch,
          .parked = shared_.options.parked,
          .outsideWindow = shared_.options.outsideWindow,
          .unhandled = shared_.options.unhandled,
          .patience = base::systemClock().boot() < patientFrom_ ? kShortPatience : kClaimPatience};
}

void Worker::serve(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    const auto wait = std::min(kIdle, shared_.nextLook.left());
    auto jobs = shared_.queue.pop({.events = batchSize_.now()}, wait, stop);
    if (!jobs.empty()) finish(std::move(jobs), stop);
    if (stop.stop_requested()) break;
    if (retrier_.due()) guarded(stop, [&] { retrier_.turn(handling(), stop); });
    forgetOldWhenDue();
  }
  ended_ = true;
}

void Worker::finish(std::vector<Job> jobs, const std::stop_token& stop) {
  warnOfWindow(jobs);
  blocked_ = std::chrono::nanoseconds(0);
  const auto start = base::systemClock().boot();
  BatchPlan plan;
  std::span<Job> left(jobs);
  while (!left.empty() && !stop.stop_requested()) {
    left = left.subspan(advance(left, plan, stop));
    const auto stale = std::stable_partition(
        left.begin(), left.end(), [&](const Job& job) { return !shared_.queue.stale(job); });
    left = left.first(static_cast<std::size_t>(stale - left.begin()));
  }
  shared_.queue.release(jobs);
  batchSize_.took(jobs.size(), base::systemClock().boot() - start - blocked_);
}

template <typename Work>
bool Worker::guarded(const std::stop_token& stop, Work work) {
  milliseconds wait = kIdle;
  try {
    work();
    shared_.database->works(this);
    return true;
  } catch (const HandlerFailed& failed) {  // not by a handler: it could not be recorded
    if (failed.failure().passing) return false;
    wait = shared_.database->failed(this, failed);
  } catch (const Error& error) {
    wait = shared_.database->failed(this, error);
  } catch (const std::exception& error) {
    base::log.error("consumer '{}' begins again after: {}", shared_.consumer, error.what());
  }
  closeInbox();
  base::pause(stop, wait);
  return false;
}

std::size_t Worker::advance(std::span<Job> left, BatchPlan& plan, const std::stop_token& stop) {
  std::size_t done = 0;
  guarded(stop, [&] { done = attempt(left, plan); });
  return done;
}

std::size_t Worker::attempt(std::span<Job> left, BatchPlan& plan) {
  const std::size_t size = alike(left.first(plan.size(left.size())), shared_.handlers);
  const auto start = base::systemClock().boot();
  const Attempt attempt = attemptBatch(left.first(size), handling());
  switch (attempt.end) {
    case Attempt::End::Done:
      for (std::size_t i = 0; i < size; ++i) count(attempt.outcomes[i], left[i]);
      break;
    case Attempt::End::Holds:
      plan.atFirst(bringForward(left.first(size), attempt.first));
      return 0;
    case Attempt::End::TooSlow:
      plan.atMost(attempt.fitting);
      return 0;
    case Attempt::End::Blocked:
      blocked_ += base::systemClock().boot() - start;
      patientFrom_ = base::systemClock().boot() + kImpatient;
      plan.atMost(1);
      return size > 1 ? 0 : setAside(left);
    case Attempt::End::Lost:
      if (size > 1) plan.stoppedAt(attempt.index);
      settleLost(left[attempt.index], size == 1, *attempt.lost);
      break;
    case Attempt::End::Stopped:
      if (shared_.watch.abandoned()) return 0;  // stop() cancelled it: delivered again
      if (size > 1) plan.stoppedAt(attempt.index);
      if (size > 1 || (attempt.failure.passing && ++repeats_ <= kMostRepeats)) return 0;
      count(settle(left.front(), attempt.failure, attempt.isEvent), left.front());
      break;
  }
  plan.succeeded();
  repeats_ = 0;
  return size;
}

void Worker::settleLost(const Job& job, bool isAlone, const DatabaseError& lost) {
  const bool isFailure = losses_.lost(job.event()->id);
  if (!isFailure || !isAlone || shared_.watch.abandoned()) throw DatabaseError(lost);
  closeInbox();
  count(settle(job, LossesInARow::failureOf(lost), true), job);
}

std::size_t Worker::setAside(std::span<Job> left) {
  const amqp::Identity event = *left.front().event();
  const auto now = base::systemClock().boot();
  if (lastWarnedOfBlock_.count() == 0 || now - lastWarnedOfBlock_ >= kWarnOfBlockEvery) {
    lastWarnedOfBlock_ = now;
    base::log.warn(
        "consumer '{}': event {} ({}) is being applied in another transaction, which does not end; "
        "does a handler hang, here or in another instance?",
        shared_.consumer, event.id, event.type);
  }
  const auto waits = [&](const Job& job) {
    const amqp::Identity* other = job.event();
    return other != nullptr && (event.key.empty() ? other->key.empty() && other->id == event.id
                                                  : other->key == event.key);
  };
  const auto others = std::stable_partition(left.begin(), left.end(), waits);
  const auto blocked = left.first(static_cast<std::size_t>(others - left.begin()));
  shared_.queue.setAside(blocked);
  return blocked.size();
}

Outcome Worker::settle(const Job& job, const Failure& failure, bool isEvent) {
  if (!isEvent) return deadLetter(job, failure, /*attempts=*/0, handling());
  base::log.warn("consumer '{}': handler failed for event {} ({}), attempt 1 of {}: {}",
                 shared_.consumer, job.event()->id, job.event()->type,
                 shared_.options.retry.maxAttempts, failure.error);
  const Failure judged = retrier_.judged(failure, 1);
  std::optional<Outcome> outcome;
  if (!judged.verdict.empty()) outcome = deadLetterEvent(job, judged);
  if (!outcome) outcome = parkFailed(job, judged, retrier_.waitAfter(1), handling());
  ++shared_.counters.failed;
  return *outcome;
}

std::optional<Outcome> Worker::deadLetterEvent(const Job& job, const Failure& failure) {
  try {
    return deadLetter(job, failure, /*attempts=*/1, handling());
  } catch (const HandlerFailed& refused) {
    if (refused.failure().passing) throw;
    retrier_.tellRefusal(job.event()->id, refused);
  } catch (const ConfigError& refused) {
    retrier_.tellRefusal(job.event()->id, refused);
  }
  return std::nullopt;
}

void Worker::count(Outcome outcome, const Job& job) {
  Counters& counters = shared_.counters;
  if (outcome == Outcome::Ignored || outcome == Outcome::Left) tellUnhandled(job);
  switch (outcome) {
    case Outcome::Applied:
      ++counters.applied;
      return;
    case Outcome::Duplicate:
      ++counters.duplicates;
      return;
    case Outcome::Ignored:
      ++counters.ignored;
      return;
    case Outcome::Left:
      shared_.nextLook.within(kUnknownAgain);
      [[fallthrough]];
    case Outcome::Parked:
      ++counters.parked;
      return;
    case Outcome::Held:
      ++counters.held;
      return;
    case Outcome::Discarded:
      ++counters.discarded;
      return;
    case Outcome::DeadLettered:
      shared_.letters.signal();
      ++counters.deadLettered;
      return;
  }
}

void Worker::tellUnhandled(const Job& job) {
  const std::string& type = job.event()->type;
  const std::string& routingKey = job.delivery.message.routingKey;
  if (!shared_.told.mayTell("unhandled " + type)) return;
  std::string named = base::quoted(type);
  if (routingKey != type) named += ", published with routing key " + base::quoted(routingKey) + ",";
  if (shared_.options.unhandled == UnhandledPolicy::Ignore) {
    base::log.info("consumer '{}': events of type {} have no handler here; they are ignored",
                   shared_.consumer, named);
    return;
  }
  base::log.warn(
      "consumer '{}': events of type {} have no handler here; they are parked for instances that"
      " have one, and given up when none has one for an hour",
      shared_.consumer, named);
}

/// The queue is in order of time, so the first of a batch is about the oldest there is.
void Worker::warnOfWindow(const std::vector<Job>& jobs) {
  const amqp::Identity* event = jobs.front().event();
  const auto made = event != nullptr ? timeOfEventId(event->id) : std::nullopt;
  const auto& clock = base::systemClock();
  if (!made || clock.wall() - *made < shared_.options.dedupeWindow * 3 / 4) return;
  if (lastWarned_.count() > 0 && clock.boot() - lastWarned_ < kWarnEvery) return;
  lastWarned_ = clock.boot();
  base::log.warn(
      "consumer '{}': event {} is {} hours old, and the dedupe window is {} hours; what is older "
      "than that is not applied",
      shared_.consumer, event->id,
      std::chrono::duration_cast<std::chrono::hours>(clock.wall() - *made).count(),
      shared_.options.dedupeWindow.count());
}

void Worker::forgetOldWhenDue() {
  const auto now = base::systemClock().boot();
  if (!inbox_ || now < nextForget_) return;
  nextForget_ = now + kForgetEvery;
  try {
    // A small batch at a time, since deliveries must not wait for a million of them.
    if (inbox_->forgetOld()) nextForget_ = now;
  } catch (const Error& error) {  // space waits, delivery does not
    base::log.warn("consumer '{}' could not forget old events: {}", shared_.consumer, error.what());
    if (error.connectionLost()) closeInbox();
  }
}

}  // namespace pillion::inbox
