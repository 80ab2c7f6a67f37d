#pragma once

#include <chrono>
#include <condition_variable>
#include <set>
#include <stop_token>
#include <utility>

#include "base/clock.hpp"
#include "base/thread_safety.hpp"
#include "base/wake_event.hpp"

namespace pillion::inbox {

using Partitions = std::set<int>;

/// What an instance of a consumer with partitions is to consume.
struct Assignment {
  int generation = 0;  // of the queues; 0: not known yet
  int partitions = 0;
  int next = 0;           // not 0: being changed to so many
  bool allKnow = false;   // of that: nobody binds the present queues any more
  bool draining = false;  // and the next queues get all that is published
  Partitions wanted = {};
  bool isCurrent = true;  // no: it could not be renewed in time, and others may know better
};

/// What it does.
struct Consumption {
  bool connected = false;
  int generation = 0;
  Partitions consumed = {};  // those it lets go of included
  int known = 0;             // the newest generation that it has heard of
  int bound = 0;             // the generation which alone was bound last
  Partitions empty = {};     // with nothing left in the queue, here or at the broker

  bool operator==(const Consumption&) const = default;
};

/// Where the thread that agrees with the other instances and the one that talks to the broker meet.
class Holdings {
 public:
  using Boot = base::Clock::Boot;

  explicit Holdings(base::WakeEvent& toBroker, const base::Clock& clock = base::systemClock())
      : toBroker_(toBroker), clock_(clock) {}

  // The thread that agrees.

  /// Holds until then: for as long as no other instance may think it has any of it.
  void assign(Assignment assignment, Boot until) {
    {
      const base::MutexLock lock(mutex_);
      assignment_ = std::move(assignment);
      until_ = until;
    }
    toBroker_.signal();
  }
  [[nodiscard]] Consumption consumption() const {
    const base::MutexLock lock(mutex_);
    return consumption_;
  }
  /// Waits for something new to tell the others.
  void awaitNews(std::chrono::milliseconds limit, const std::stop_token& stop) {
    base::MutexLock lock(mutex_);
    changed_.wait_for(lock, stop, limit, [this]() PILLION_REQUIRES(mutex_) { return news_; });
    news_ = false;
  }

  // The broker's thread.

  [[nodiscard]] Assignment assignment() const {
    const base::MutexLock lock(mutex_);
    Assignment now = assignment_;
    now.isCurrent = clock_.boot() < until_;
    if (!now.isCurrent) now.wanted.clear();
    return now;
  }
  void tell(Consumption consumption) {
    {
      const base::MutexLock lock(mutex_);
      if (consumption == consumption_) return;
      consumption_ = std::move(consumption);
      news_ = true;
    }
    changed_.notify_one();
  }

 private:
  base::WakeEvent& toBroker_;
  const base::Clock& clock_;
  mutable base::Mutex mutex_;
  std::condition_variable_any changed_;
  Assignment assignment_ PILLION_GUARDED_BY(mutex_);
  Boot until_ PILLION_GUARDED_BY(mutex_){0};
  Consumption consumption_ PILLION_GUARDED_BY(mutex_);
  bool news_ PILLION_GUARDED_BY(mutex_) = false;
};

}  // namespace pillion::inbox
