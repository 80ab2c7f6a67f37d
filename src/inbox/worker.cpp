#include "inbox/worker.hpp"

#include <spdlog/spdlog.h>

#include <pillion/error.hpp>
#include <pillion/log.hpp>
#include <utility>

#include "postgres/connection.hpp"

namespace pillion::inbox {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kIdle{1'000};
constexpr std::chrono::hours kForgetEvery{1};

}  // namespace

Worker::Worker(const ConsumerOptions& options, std::string consumer, const HandlerTable& handlers,
               DeliveryQueue& queue, Counters& counters)
    : options_(options),
      consumer_(std::move(consumer)),
      handlers_(handlers),
      queue_(queue),
      counters_(counters),
      deadLetters_(options.broker, consumer_ + ".dead"),
      outage_("consumer '" + consumer_ + "'"),
      outageBackoff_(options.broker.reconnectFirst, options.broker.reconnectMost),
      retryBackoff_(options.retry.first, options.retry.most, options.retry.factor) {}

void Worker::open() {
  try {
    openInbox();
  } catch (const Error& error) {
    if (!error.retryable()) throw;
    outage_.began(error);
  }
}

void Worker::openInbox() {
  inbox_ = std::make_unique<PostgresInbox>(options_.database, consumer_, options_.dedupeWindow);
}

void Worker::serve(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    if (const auto job = queue_.pop(kIdle, stop)) finish(*job, stop);
    forgetOldWhenDue();
  }
}

void Worker::finish(const Job& job, const std::stop_token& stop) {
  Progress progress;
  retryBackoff_.reset();
  while (!stop.stop_requested() && !queue_.stale(job)) {
    if (attempt(job, progress, stop)) return;
  }
}

bool Worker::attempt(const Job& job, Progress& progress, const std::stop_token& stop) {
  try {
    count(progress.giveUp ? giveUp(job, *progress.giveUp) : handle(job));
    allIsWell();
    return true;
  } catch (const RejectEvent& rejected) {
    allIsWell();
    ++counters_.failed;
    progress.giveUp = {"rejected", postgres::firstLine(rejected.what()), progress.failures + 1};
    return false;
  } catch (const HandlerFailed& failed) {
    allIsWell();
    noteFailure(job, progress, failed.what());
    if (!progress.giveUp) pause(retryBackoff_.next(), stop);
    return false;
  } catch (const BrokerError& error) {
    outage_.began(error);  // a dead letter could not be sent
  } catch (const Error& error) {
    outage_.began(error);
    inbox_.reset();
  } catch (const std::exception& error) {
    logger()->error("consumer '{}' begins again after: {}", consumer_, error.what());
    inbox_.reset();
  }
  pause(outageBackoff_.next(), stop);
  return false;
}

void Worker::allIsWell() {
  outage_.ended();
  outageBackoff_.reset();
}

Outcome Worker::handle(const Job& job) {
  if (!inbox_) openInbox();
  return attemptDelivery(job, handlers_, *inbox_, deadLetters_, queue_);
}

Outcome Worker::giveUp(const Job& job, const DeadLetterReason& reason) {
  deadLetters_.send(job.delivery, reason);
  queue_.ack(job);
  logger()->error("consumer '{}': event {} went to the dead-letter queue, {} after {} attempts",
                  consumer_, job.delivery.message.messageId, reason.reason, reason.attempts);
  return Outcome::DeadLettered;
}

void Worker::noteFailure(const Job& job, Progress& progress, const std::string& error) {
  ++counters_.failed;
  ++progress.failures;
  logger()->warn("consumer '{}': handler failed for event {} ({}), attempt {} of {}: {}", consumer_,
                 job.delivery.message.messageId, job.delivery.message.type, progress.failures,
                 options_.retry.maxAttempts, error);
  if (progress.failures < options_.retry.maxAttempts) return;
  progress.giveUp = {"handler-failed", error, progress.failures};
}

void Worker::forgetOldWhenDue() {
  const auto now = base::systemClock().boot();
  if (!inbox_ || now - lastForgot_ < kForgetEvery) return;
  lastForgot_ = now;
  try {
    inbox_->forgetOld();
  } catch (const Error& error) {
    outage_.began(error);
    inbox_.reset();
  } catch (const std::exception& error) {
    logger()->error("consumer '{}' begins again after: {}", consumer_, error.what());
    inbox_.reset();
  }
}

void Worker::count(Outcome outcome) {
  switch (outcome) {
    case Outcome::Applied:
      ++counters_.applied;
      return;
    case Outcome::Duplicate:
      ++counters_.duplicates;
      return;
    case Outcome::Ignored:
      ++counters_.ignored;
      return;
    case Outcome::DeadLettered:
      ++counters_.deadLettered;
      return;
  }
}

void Worker::pause(milliseconds limit, const std::stop_token& stop) {
  std::unique_lock lock(pauseMutex_);
  pauseEnd_.wait_for(lock, stop, limit, [] { return false; });
}

}  // namespace pillion::inbox
