#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <span>
#include <stop_token>
#include <vector>

#include "base/thread_safety.hpp"
#include "inbox/batch_plan.hpp"
#include "inbox/delivery.hpp"
#include "inbox/postgres_inbox.hpp"
#include "inbox/retrier.hpp"
#include "inbox/shared.hpp"

namespace pillion::inbox {

/// A thread that runs handlers: batch after batch, each as often as it takes, and parked events
/// when they are due.
class Worker {
 public:
  explicit Worker(const Shared& shared);

  /// First contact with the database; throws what waiting cannot heal.
  void open();
  void serve(const std::stop_token& stop);

  /// From another thread: ends a query that a handler waits for.
  void cancelQuery();
  [[nodiscard]] bool ended() const { return ended_; }

 private:
  void openInbox();
  void closeInbox();
  /// Until each delivery is dealt with, their channel is lost, or stop is requested.
  void finish(std::vector<Job> jobs, const std::stop_token& stop);
  /// Tries the first few of those that are left. Returns how many of them are dealt with.
  std::size_t advance(std::span<Job> left, BatchPlan& plan, const std::stop_token& stop);
  std::size_t attempt(std::span<Job> left, BatchPlan& plan);
  /// Of one whose handler may have made it so. Throws the loss, unless it is the event's failure.
  void settleLost(const Job& job, bool isAlone, const DatabaseError& lost);
  /// The first cannot be claimed: it is set aside with the others of its key, which are the first
  /// of those that are left then. Returns how many these are.
  std::size_t setAside(std::span<Job> left);
  /// What becomes of one at which its attempt stopped when it was alone.
  Outcome settle(const Job& job, const Failure& failure, bool isEvent);
  /// Nothing when PostgreSQL refuses it.
  std::optional<Outcome> deadLetterEvent(const Job& job, const Failure& failure);
  /// Runs it; false after an outage, for which it has waited.
  template <typename Work>
  bool guarded(const std::stop_token& stop, Work work);
  [[nodiscard]] Handling handling();
  void count(Outcome outcome, const Job& job);
  void tellUnhandled(const Job& job);
  void warnOfWindow(const std::vector<Job>& jobs);
  void forgetOldWhenDue();

  const Shared& shared_;
  Retrier retrier_;
  std::unique_ptr<PostgresInbox> inbox_;
  base::Mutex cancelMutex_;
  /// The inbox as another thread may have it, for cancelQuery; null before it is closed.
  PostgresInbox* cancellable_ PILLION_GUARDED_BY(cancelMutex_) = nullptr;
  BatchSize batchSize_;
  LossesInARow losses_;
  int repeats_ = 0;                      // of one event that failed in passing
  std::chrono::nanoseconds blocked_{0};  // of the time for the batch in hand
  base::Clock::Boot nextForget_{0};
  base::Clock::Boot lastWarned_{0};
  base::Clock::Boot lastWarnedOfBlock_{0};
  base::Clock::Boot patientFrom_{0};
  std::atomic<bool> ended_{false};
};

}  // namespace pillion::inbox
