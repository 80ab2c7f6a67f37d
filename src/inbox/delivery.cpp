#include "inbox/delivery.hpp"

#include <algorithm>
#include <cmath>
#include <pillion/error.hpp>
#include <set>
#include <string_view>
#include <variant>

#include "amqp/message.hpp"
#include "base/failpoint.hpp"
#include "event/event_id.hpp"
#include "event/timestamp.hpp"
#include "inbox/batch_plan.hpp"

namespace pillion::inbox {
namespace {

constexpr const char* kOutsideWindow = "outside-dedupe-window";
/// Set by an operator who redrives such a dead letter and knows that it was not applied.
constexpr const char* kApplyOutside = "pillion-outside-window";

/// Handlers that were quick may have become slow since the batch was measured out.
constexpr std::chrono::seconds kLongestBatch{1};

std::string madeAt(const amqp::Identity& event) {
  const auto time = timeOfEventId(event.id);
  return "the event's id was made at " + (time ? toRfc3339(*time) : "an unknown time");
}

/// Deliveries on their way through one attempt. Each step says whether it goes on.
struct Batch {
  explicit Batch(std::span<const Job> deliveries) : jobs(deliveries) {
    attempt.outcomes.assign(jobs.size(), Outcome::Applied);
    for (std::size_t index = 0; index < jobs.size(); ++index) open.push_back(index);
  }
  bool goesOn() const { return attempt.end == Attempt::End::Done; }
  /// No outcome, since there is none.
  std::optional<Outcome> stop(std::size_t index, Failure failure, bool isEvent) {
    attempt = Attempt::stopped(index, std::move(failure), isEvent);
    return std::nullopt;
  }

  std::span<const Job> jobs;
  std::vector<std::size_t> open;  // indices of those whose outcome is not decided yet
  Attempt attempt;
};

/// The header counts for what came by the queue's own name, as a redrive sends it: whoever
/// publishes to the events' exchange must not choose to be applied twice.
bool mayApplyOutside(const Job& job, const Handling& with) {
  return with.outsideWindow == OutsideWindowPolicy::Apply ||
         (amqp::isRedriven(job.delivery) &&
          amqp::findHeader(job.delivery.message, kApplyOutside) != nullptr);
}

/// What becomes of one that may have been applied and forgotten since.
std::optional<Outcome> outside(Batch& batch, std::size_t index, const Handling& with) {
  if (with.outsideWindow == OutsideWindowPolicy::Discard) return Outcome::Discarded;
  return batch.stop(index, {madeAt(*batch.jobs[index].event()), kOutsideWindow}, false);
}

/// Keeps in `open` those that `decide` leaves open.
template <typename Decide>
bool filter(Batch& batch, Decide decide) {
  std::vector<std::size_t> open;
  for (std::size_t n = 0; n < batch.open.size(); ++n) {
    const std::size_t index = batch.open[n];
    const std::optional<Outcome> decided = decide(n, index);
    if (!batch.goesOn()) return false;
    if (decided) {
      batch.attempt.outcomes[index] = *decided;
    } else {
      open.push_back(index);
    }
  }
  batch.open = std::move(open);
  return true;
}

/// For steps that all events of a batch share: whose doing it was is not known, the smaller halves
/// will tell.
template <typename Step>
bool together(Batch& batch, Step step) {
  try {
    step();
  } catch (const HandlerFailed& failed) {
    batch.stop(batch.jobs.size() / 2, failed.failure(), true);
  }
  return batch.goesOn();
}

/// Decides what can be decided without the database; the others are to be claimed.
bool admit(Batch& batch, const Handling& with) {
  return filter(batch, [&](std::size_t, std::size_t index) -> std::optional<Outcome> {
    const Job& job = batch.jobs[index];
    if (const auto* problem = std::get_if<amqp::Problem>(&job.identity)) {
      return batch.stop(index, {problem->detail, problem->reason}, false);
    }
    const amqp::Identity& event = *job.event();
    if (with.unhandled == UnhandledPolicy::Ignore && with.handlers.find(event.type) == nullptr) {
      return Outcome::Ignored;
    }
    if (mayApplyOutside(job, with) || with.inbox.remembers(event.id)) return std::nullopt;
    return outside(batch, index, with);
  });
}

/// Decides what can be decided without its handler.
std::optional<Outcome> afterClaim(InboxTransaction& transaction, Batch& batch, std::size_t index,
                                  Claim claim, const Handling& with) {
  const Job& job = batch.jobs[index];
  if (claim == Claim::Duplicate) return Outcome::Duplicate;
  if (claim == Claim::Forgotten && !mayApplyOutside(job, with)) return outside(batch, index, with);
  if (with.parked == ParkedPolicy::Hold && transaction.holdBack(job, *job.event())) {
    return Outcome::Held;
  }
  if (with.handlers.find(job.event()->type) != nullptr) return std::nullopt;
  transaction.leaveToOthers(job, *job.event());
  return Outcome::Left;
}

bool claim(InboxTransaction& transaction, Batch& batch, const Handling& with) {
  std::vector<const amqp::Identity*> events;
  for (const std::size_t index : batch.open) events.push_back(batch.jobs[index].event());
  return together(batch, [&] {
    const auto claims = transaction.claim(events, with.patience);
    if (!claims) {
      batch.attempt = {.end = Attempt::End::Blocked};
      return;
    }
    filter(batch, [&](std::size_t n, std::size_t index) {
      return afterClaim(transaction, batch, index, (*claims)[n], with);
    });
  });
}

/// No lock on a parked event is held while a handler runs. An event whose handler is still to run
/// is passed by none of its key.
bool noneHeld(Batch& batch) {
  const auto& outcomes = batch.attempt.outcomes;
  if (batch.open.empty() || std::ranges::find(outcomes, Outcome::Held) == outcomes.end()) {
    return true;
  }
  std::vector<std::size_t> parked;
  std::set<std::string_view> openKeys;
  auto open = batch.open.begin();
  for (std::size_t index = 0; index < batch.jobs.size(); ++index) {
    const amqp::Identity* event = batch.jobs[index].event();
    if (open != batch.open.end() && *open == index) {
      ++open;
      openKeys.insert(event->key);
      continue;
    }
    if (outcomes[index] != Outcome::Held && outcomes[index] != Outcome::Left) continue;
    if (!event->key.empty() && openKeys.contains(event->key)) continue;
    parked.push_back(index);
  }
  const auto isHeld = [&](std::size_t index) { return outcomes[index] == Outcome::Held; };
  if (std::ranges::none_of(parked, isHeld)) return true;
  batch.attempt = {.end = Attempt::End::Holds, .first = std::move(parked)};
  return false;
}

bool handle(InboxTransaction& transaction, Batch& batch, const Handling& with) {
  const auto start = with.clock.boot();
  for (std::size_t n = 0; n < batch.open.size(); ++n) {
    const auto time = with.clock.boot() - start;
    if (time > kLongestBatch) {
      batch.attempt = {.end = Attempt::End::TooSlow, .fitting = BatchSize::fitting(n, time)};
      return false;
    }
    const std::size_t index = batch.open[n];
    const Job& job = batch.jobs[index];
    const Handler& handler = *with.handlers.find(job.event()->type);
    auto ended =
        lostOr(index, [&] { return handleEvent(transaction, handler, job, index, with.watch); });
    if (!ended) continue;
    batch.attempt = std::move(*ended);
    return false;
  }
  return true;
}

/// A session that ended by a limit while a handler computed is missed here first.
bool commit(InboxTransaction& transaction, Batch& batch) {
  try {
    return together(batch, [&] { transaction.commit(); });
  } catch (const DatabaseError& error) {
    if (error.outcomeInDoubt()) throw;
    batch.attempt = Attempt::lostAt(batch.jobs.size() / 2, error);
    return false;
  }
}

/// One event, alone, whose handler has run: false when another instance has taken it meanwhile.
bool isStillMine(InboxTransaction& transaction, const amqp::Identity& event) {
  const amqp::Identity* one = &event;
  const auto claims = transaction.claim(std::span(&one, 1), kClaimPatience);
  if (!claims) throw blockedClaim();
  return claims->front() != Claim::Duplicate;
}

}  // namespace

std::size_t alike(std::span<const Job> jobs, const HandlerTable& handlers) {
  const auto usesTransaction = [&](const Job& job) {
    return job.event() == nullptr || handlers.usesTransaction(job.event()->type);
  };
  const bool first = usesTransaction(jobs.front());
  const auto other =
      std::ranges::find_if(jobs, [&](const Job& job) { return usesTransaction(job) != first; });
  return static_cast<std::size_t>(other - jobs.begin());
}

/// The order of these lines is the order that makes it safe: the acks are last, and the ids commit
/// with the effects. A crash before the commit leaves nothing behind and the broker delivers again;
/// a crash after it leaves ids that make the next deliveries duplicates.
Attempt attemptBatch(std::span<const Job> jobs, const Handling& with) {
  PILLION_FAILPOINT("delivery.received");
  Batch batch(jobs);
  if (!admit(batch, with)) return batch.attempt;
  if (!batch.open.empty()) {
    const auto transaction = with.inbox.begin();
    PILLION_FAILPOINT("delivery.begun");
    if (!claim(*transaction, batch, with) || !noneHeld(batch)) return batch.attempt;
    PILLION_FAILPOINT("delivery.claimed");
    if (!handle(*transaction, batch, with)) return batch.attempt;
    PILLION_FAILPOINT("delivery.handled");
    if (!commit(*transaction, batch)) return batch.attempt;
    PILLION_FAILPOINT("delivery.committed");
  }
  for (const Job& job : jobs) with.queue.ack(job);
  PILLION_FAILPOINT("delivery.acked");
  return batch.attempt;
}

std::optional<Attempt> handleEvent(InboxTransaction& transaction, const Handler& handler,
                                   const Job& job, std::size_t index, HandlerWatch& watch) {
  const auto decoded = amqp::eventFrom(job.delivery.message);
  if (const auto* problem = std::get_if<amqp::Problem>(&decoded)) {
    return Attempt::stopped(index, {problem->detail, problem->reason}, false);
  }
  const Event& event = std::get<Event>(decoded);
  const HandlerWatch::Guard guard(watch, event.id(), event.type());
  try {
    transaction.run(handler, event);
  } catch (const HandlerFailed& failed) {
    return Attempt::stopped(index, failed.failure());
  }
  if (!watch.abandoned()) return std::nullopt;
  return Attempt::stopped(index, {"the consumer was stopped while it ran", ""});
}

DatabaseError blockedClaim() {
  return {DatabaseError::Kind::Unavailable,
          "PostgreSQL: the event is being applied in a transaction that does not end"};
}

Outcome parkFailed(const Job& job, const Failure& failure, std::chrono::milliseconds wait,
                   const Handling& with) {
  const auto transaction = with.inbox.begin();
  if (!isStillMine(*transaction, *job.event())) {
    with.queue.ack(job);
    return Outcome::Duplicate;
  }
  transaction->park(job, *job.event(), failure, wait);
  PILLION_FAILPOINT("delivery.parking");
  transaction->commit();
  PILLION_FAILPOINT("delivery.parked");
  with.queue.ack(job);
  return Outcome::Parked;
}

/// Its id is recorded only to find out whether somebody else has taken it, and forgotten in the
/// same transaction: a redrive is let through.
Outcome deadLetter(const Job& job, const Failure& failure, int attempts, const Handling& with) {
  const auto transaction = with.inbox.begin();
  if (attempts > 0) {
    if (!isStillMine(*transaction, *job.event())) {
      with.queue.ack(job);
      return Outcome::Duplicate;
    }
    transaction->forget(*job.event());
  }
  transaction->deadLetter(job, failure, attempts);
  transaction->commit();
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
