#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <set>
#include <span>
#include <stop_token>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <variant>
#include <vector>

#include "amqp/channel.hpp"
#include "base/clock.hpp"
#include "base/thread_safety.hpp"
#include "base/wake_event.hpp"
#include "inbox/prefetch_plan.hpp"

namespace pillion::inbox {

/// A delivery, and what is known of it without looking at its body.
struct Job {
  amqp::Delivery delivery;
  std::variant<amqp::Identity, amqp::Problem> identity;
  base::Clock::Boot receivedAt{0};

  [[nodiscard]] const amqp::Identity* event() const {
    return std::get_if<amqp::Identity>(&identity);
  }
};

/// What a worker takes at a time, at most; one larger delivery travels alone.
struct BatchLimit {
  std::size_t events = 1;
  std::size_t bytes = 8U << 20;
};

/// Where the thread that talks to the broker and the threads that run the handlers meet, and where
/// the order of a key is kept: while a worker has events of a key, no other gets any of it. Bounded
/// by the prefetch, since nothing leaves it before it is acked.
class DeliveryQueue {
 public:
  /// `toBroker` is raised when there is something for the broker's thread to do.
  explicit DeliveryQueue(base::WakeEvent& toBroker, const base::Clock& clock = base::systemClock())
      : toBroker_(toBroker), clock_(clock) {}

  // The broker's thread.

  /// From now on deliveries of this consumer are taken. No number is used twice.
  void opened(std::uint64_t consumer);
  /// It is to end: what of it was not begun is for whoever has its queue next.
  void letGo(std::uint64_t consumer);
  /// Is a delivery of it still in a worker's hands?
  [[nodiscard]] bool isInHand(std::uint64_t consumer) const;
  [[nodiscard]] Load loadOf(std::uint64_t consumer) const;
  /// It has ended: what it was sent and has not acked will be delivered again.
  void ended(std::uint64_t consumer);
  /// Drops what comes to one that was let go, or has ended. Returns what the bodies of its open
  /// deliveries take.
  std::size_t push(amqp::Delivery delivery);
  struct Ack {
    std::uint64_t consumer = 0;
    std::uint64_t tag = 0;
    bool multiple = false;  // this one and all before
  };
  std::vector<Ack> takeAcks();

  // The handlers' threads.

  /// The next deliveries, in their order; none after the limit or when stop was requested. Never
  /// waits for more. When several workers are idle, they share what is there. Their keys belong to
  /// the caller until `release`.
  std::vector<Job> pop(const BatchLimit& limit, std::chrono::milliseconds wait,
                       const std::stop_token& stop);
  void ack(const Job& job);
  void release(const std::vector<Job>& jobs);
  /// These, which are all of one key (or one event without), cannot be claimed, since another
  /// transaction that does not end has recorded an id of theirs. They come again, in their order,
  /// after a pause that grows each time from a second to half a minute; nobody gets any of their
  /// key before. To be released besides.
  void setAside(std::span<const Job> jobs);
  /// Has the consumer of this job ended meanwhile?
  [[nodiscard]] bool stale(const Job& job) const;

 private:
  struct Consumer {
    bool isLetGo = false;
    std::uint64_t received = 0;
    std::uint64_t acked = 0;
    std::size_t bytes = 0;            // of what is open
    std::size_t inHand = 0;           // with workers
    std::set<std::uint64_t> open;     // tags that are not acked
    std::vector<std::uint64_t> done;  // tags that are to be acked
  };
  /// Of a key that was set aside.
  struct Aside {
    base::Clock::Boot until{0};
    std::chrono::seconds pause{1};
  };
  /// What is set aside by: the key, or the id of an event without one.
  static std::string nameOf(const amqp::Identity& event);
  /// Must it wait for one of its key that a worker has, other than the caller, or that was set
  /// aside?
  [[nodiscard]] bool mustWait(const Job& job, const std::unordered_set<std::string>& mine,
                              base::Clock::Boot now) const PILLION_REQUIRES(mutex_);
  [[nodiscard]] bool isAside(const amqp::Identity& event, base::Clock::Boot now) const
      PILLION_REQUIRES(mutex_);
  std::vector<Job> takeBatch(const BatchLimit& limit, std::size_t share) PILLION_REQUIRES(mutex_);
  void dropWaiting(std::uint64_t consumer) PILLION_REQUIRES(mutex_);

  base::WakeEvent& toBroker_;
  const base::Clock& clock_;
  mutable base::Mutex mutex_;
  std::condition_variable_any filled_;
  std::map<std::uint64_t, Consumer> consumers_ PILLION_GUARDED_BY(mutex_);
  std::deque<Job> waiting_ PILLION_GUARDED_BY(mutex_);
  std::unordered_set<std::string> busyKeys_ PILLION_GUARDED_BY(mutex_);
  std::size_t idleWorkers_ PILLION_GUARDED_BY(mutex_) = 0;
  /// Something came since a worker last found nothing to take.
  bool fresh_ PILLION_GUARDED_BY(mutex_) = false;
  std::unordered_map<std::string, Aside> aside_ PILLION_GUARDED_BY(mutex_);
};

}  // namespace pillion::inbox
