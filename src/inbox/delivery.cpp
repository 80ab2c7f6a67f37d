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

/// Deliveries on their way through one attempt.
struct Batch {
  std::span<const Job> jobs;
  std::vector<Outcome> outcomes;
  std::vector<std::size_t> open;  // indices of those whose outcome is not decided yet
};

/// The header counts for what came by the queue's own name, as a redrive sends it: whoever
/// publishes to the events' exchange must not choose to be applied twice.
bool mayApplyOutside(const Job& job, const Handling& with) {
  return with.outsideWindow == OutsideWindowPolicy::Apply ||
         (amqp::isRedriven(job.delivery) &&
          amqp::findHeader(job.delivery.message, kApplyOutside) != nullptr);
}

/// What becomes of one that may have been applied and forgotten since.
Outcome outside(const Job& job, std::size_t index, const Handling& with) {
  if (with.outsideWindow == OutsideWindowPolicy::Discard) return Outcome::Discarded;
  throw BatchStopped(index, {madeAt(*job.event()), kOutsideWindow}, false);
}

/// Decides what can be decided without the database. Nothing: it is to be claimed.
std::optional<Outcome> admit(const Job& job, std::size_t index, const Handling& with) {
  if (const auto* problem = std::get_if<amqp::Problem>(&job.identity)) {
    throw BatchStopped(index, {problem->detail, problem->reason}, false);
  }
  const amqp::Identity& event = *job.event();
  if (with.unhandled == UnhandledPolicy::Ignore && with.handlers.find(event.type) == nullptr) {
    return Outcome::Ignored;
  }
  if (mayApplyOutside(job, with) || with.inbox.remembers(event.id)) return std::nullopt;
  return outside(job, index, with);
}

/// Decides what can be decided without its handler.
std::optional<Outcome> afterClaim(InboxTransaction& transaction, const Job& job, std::size_t index,
                                  Claim claim, const Handling& with) {
  if (claim == Claim::Duplicate) return Outcome::Duplicate;
  if (claim == Claim::Forgotten && !mayApplyOutside(job, with)) return outside(job, index, with);
  if (with.parked == ParkedPolicy::Hold && transaction.holdBack(job, *job.event())) {
    return Outcome::Held;
  }
  if (with.handlers.find(job.event()->type) != nullptr) return std::nullopt;
  transaction.leaveToOthers(job, *job.event());
  return Outcome::Left;
}

/// Keeps in `open` those that `decide` leaves open.
template <typename Decide>
void filter(Batch& batch, Decide decide) {
  std::vector<std::size_t> open;
  for (std::size_t n = 0; n < batch.open.size(); ++n) {
    const std::size_t index = batch.open[n];
    if (const std::optional<Outcome> decided = decide(n, index)) {
      batch.outcomes[index] = *decided;
    } else {
      open.push_back(index);
    }
  }
  batch.open = std::move(open);
}

/// For steps that all events of a batch share: whose doing it was is not known, the smaller halves
/// will tell.
template <typename Step>
void together(const Batch& batch, Step step) {
  try {
    step();
  } catch (const HandlerFailed& failed) {
    throw BatchStopped(batch.jobs.size() / 2, failed.failure(), true);
  }
}

void claim(InboxTransaction& transaction, Batch& batch, const Handling& with) {
  std::vector<const amqp::Identity*> events;
  for (const std::size_t index : batch.open) events.push_back(batch.jobs[index].event());
  together(batch, [&] {
    const std::vector<Claim> claims = transaction.claim(events, with.patience);
    filter(batch, [&](std::size_t n, std::size_t index) {
      return afterClaim(transaction, batch.jobs[index], index, claims[n], with);
    });
  });
}

/// No lock on a parked event is held while a handler runs. An event whose handler is still to run
/// is passed by none of its key.
void requireNoneHeld(const Batch& batch) {
  if (batch.open.empty() ||
      std::ranges::find(batch.outcomes, Outcome::Held) == batch.outcomes.end()) {
    return;
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
    const Outcome outcome = batch.outcomes[index];
    if (outcome != Outcome::Held && outcome != Outcome::Left) continue;
    if (!event->key.empty() && openKeys.contains(event->key)) continue;
    parked.push_back(index);
  }
  const auto isHeld = [&](std::size_t index) { return batch.outcomes[index] == Outcome::Held; };
  if (std::ranges::any_of(parked, isHeld)) throw BatchHolds(std::move(parked));
}

void handle(InboxTransaction& transaction, const Batch& batch, const Handling& with) {
  const auto start = with.clock.boot();
  for (std::size_t n = 0; n < batch.open.size(); ++n) {
    const auto time = with.clock.boot() - start;
    if (time > kLongestBatch) throw BatchTooSlow(BatchSize::fitting(n, time));
    const std::size_t index = batch.open[n];
    const Job& job = batch.jobs[index];
    try {
      handleEvent(transaction, *with.handlers.find(job.event()->type), job, with.watch);
    } catch (const HandlerFailed& failed) {
      throw BatchStopped(index, failed.failure(), true);
    } catch (const BatchStopped& stopped) {
      throw BatchStopped(index, stopped.failure(), false);
    } catch (const ServerAilment&) {
      throw;
    } catch (const DatabaseError& error) {
      throw LostInHandler(index, error);
    }
  }
}

/// A session that ended by a limit while a handler computed is missed here first.
void commit(InboxTransaction& transaction, const Batch& batch) {
  try {
    together(batch, [&] { transaction.commit(); });
  } catch (const DatabaseError& error) {
    if (error.outcomeInDoubt()) throw;
    throw LostInHandler(batch.jobs.size() / 2, error);
  }
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
std::vector<Outcome> attemptBatch(std::span<const Job> jobs, const Handling& with) {
  PILLION_FAILPOINT("delivery.received");
  Batch batch{jobs, std::vector<Outcome>(jobs.size(), Outcome::Applied), {}};
  for (std::size_t index = 0; index < jobs.size(); ++index) batch.open.push_back(index);
  filter(batch, [&](std::size_t, std::size_t index) { return admit(jobs[index], index, with); });
  if (!batch.open.empty()) {
    const auto transaction = with.inbox.begin();
    PILLION_FAILPOINT("delivery.begun");
    claim(*transaction, batch, with);
    requireNoneHeld(batch);
    PILLION_FAILPOINT("delivery.claimed");
    handle(*transaction, batch, with);
    PILLION_FAILPOINT("delivery.handled");
    commit(*transaction, batch);
    PILLION_FAILPOINT("delivery.committed");
  }
  for (const Job& job : jobs) with.queue.ack(job);
  PILLION_FAILPOINT("delivery.acked");
  return batch.outcomes;
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
  if (watch.abandoned()) throw HandlerFailed({"the consumer was stopped while it ran", ""});
}

Outcome parkFailed(const Job& job, const Failure& failure, std::chrono::milliseconds wait,
                   const Handling& with) {
  const amqp::Identity* event = job.event();
  const auto transaction = with.inbox.begin();
  if (transaction->claim(std::span(&event, 1), kClaimPatience).front() == Claim::Duplicate) {
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

/// Its id is recorded only to find out whether somebody else has taken it, and forgotten in the
/// same transaction: a redrive is let through.
Outcome deadLetter(const Job& job, const Failure& failure, int attempts, const Handling& with) {
  const auto transaction = with.inbox.begin();
  if (attempts > 0) {
    const amqp::Identity* event = job.event();
    if (transaction->claim(std::span(&event, 1), kClaimPatience).front() == Claim::Duplicate) {
      with.queue.ack(job);
      return Outcome::Duplicate;
    }
    transaction->forget(*event);
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
