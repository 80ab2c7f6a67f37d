#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <pillion/consumer.hpp>
#include <stop_token>
#include <string>

#include "base/backoff.hpp"
#include "base/outage.hpp"
#include "inbox/dead_letters.hpp"
#include "inbox/delivery.hpp"
#include "inbox/delivery_queue.hpp"
#include "inbox/handler_table.hpp"
#include "inbox/postgres_inbox.hpp"

namespace pillion::inbox {

/// Written by the consumer's threads, read by any.
struct Counters {
  std::atomic<std::uint64_t> delivered{0};
  std::atomic<std::uint64_t> applied{0};
  std::atomic<std::uint64_t> duplicates{0};
  std::atomic<std::uint64_t> ignored{0};
  std::atomic<std::uint64_t> failed{0};
  std::atomic<std::uint64_t> deadLettered{0};
};

/// The thread that runs the handlers: one delivery after the other, each as often as it takes.
class Worker {
 public:
  Worker(const ConsumerOptions& options, std::string consumer, const HandlerTable& handlers,
         DeliveryQueue& queue, Counters& counters);

  /// First contact with the database; throws what waiting cannot heal.
  void open();
  void serve(const std::stop_token& stop);

 private:
  void openInbox();
  /// Until the delivery is acked, its channel is lost, or stop is requested.
  void finish(const Job& job, const std::stop_token& stop);
  struct Progress {
    int failures = 0;
    std::optional<DeadLetterReason> giveUp;  // decided: only the dead letter is still to be sent
  };
  /// Returns whether the delivery is dealt with; otherwise it has waited.
  bool attempt(const Job& job, Progress& progress, const std::stop_token& stop);
  Outcome handle(const Job& job);
  Outcome giveUp(const Job& job, const DeadLetterReason& reason);
  void noteFailure(const Job& job, Progress& progress, const std::string& error);
  /// The database did what it was asked: only that ends an outage, not a connection that was
  /// opened.
  void allIsWell();
  void count(Outcome outcome);
  void forgetOldWhenDue();
  void pause(std::chrono::milliseconds limit, const std::stop_token& stop);

  ConsumerOptions options_;
  std::string consumer_;
  const HandlerTable& handlers_;
  DeliveryQueue& queue_;
  Counters& counters_;
  DeadLetters deadLetters_;
  std::unique_ptr<PostgresInbox> inbox_;
  base::Outage outage_;
  base::Backoff outageBackoff_;
  base::Backoff retryBackoff_;
  base::Clock::Boot lastForgot_{0};
  std::mutex pauseMutex_;
  std::condition_variable_any pauseEnd_;
};

}  // namespace pillion::inbox
