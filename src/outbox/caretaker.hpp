#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <optional>
#include <pillion/options.hpp>
#include <pqxx/pqxx>
#include <set>
#include <string>
#include <thread>

#include "base/clock.hpp"
#include "base/outage.hpp"
#include "base/reconnect.hpp"
#include "base/thread_safety.hpp"
#include "outbox/parked.hpp"
#include "outbox/parked_table.hpp"
#include "postgres/connection.hpp"

namespace pillion::outbox {

struct CaretakerOptions {
  DatabaseOptions database = {};
  std::string who = "";  // for log lines
  std::size_t pageEvents = 0;
  std::size_t pageBytes = 0;
  std::chrono::seconds retention{};
  std::chrono::milliseconds reconnectFirst{};
  std::chrono::milliseconds reconnectMost{};
};

/// Does what the relay's turn must not wait for, on a thread and a connection of its own: reads
/// parked events when asked, moves scheduled ones that are due into the log, and empties the ring.
/// What holds one of these up (a lock, a right that is missing) is said, and holds up no other
/// longer than its time limit.
class Caretaker : public ParkedFeed {
 public:
  explicit Caretaker(CaretakerOptions options);
  ~Caretaker() override;

  /// Answers come from this server alone, PostgresEventLog::server: another one, such as a primary
  /// of before that lives on behind an address of both, has other rows of the same numbers.
  void answerFrom(std::string server);
  void ask(ParkedQuestion question) override;
  std::optional<ParkedAnswer> answer() override;

 private:
  using Boot = base::Clock::Boot;

  void work(const std::stop_token& stop);
  void workOnce();
  void rest(const std::stop_token& stop, Boot until);
  void answerQuestion();
  void moveDue();
  void reclaimSpace();
  void rotate();

  CaretakerOptions options_;
  std::string schema_;

  base::Mutex mutex_;
  std::condition_variable_any changed_;
  std::optional<ParkedQuestion> question_ PILLION_GUARDED_BY(mutex_);
  std::optional<ParkedAnswer> answer_ PILLION_GUARDED_BY(mutex_);
  std::string server_ PILLION_GUARDED_BY(mutex_);
  std::uint64_t asked_ PILLION_GUARDED_BY(mutex_) = 0;  // an answer to an older one is void

  // Of the thread.
  std::unique_ptr<postgres::Connection> connection_;
  base::Reconnect database_;
  base::Outage movingOutage_;
  Boot nextMove_{0};
  Boot nextReclaim_{0};
  std::set<std::string> said_;  // reasons for keeping space that were logged
  std::jthread thread_;         // the last member: it uses all others
};

}  // namespace pillion::outbox
