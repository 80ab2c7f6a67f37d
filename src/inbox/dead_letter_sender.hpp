#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <pillion/consumer.hpp>
#include <stop_token>
#include <string>
#include <vector>

#include "amqp/connection.hpp"
#include "base/clock.hpp"
#include "base/once_an_hour.hpp"
#include "base/reconnect.hpp"
#include "base/wake_event.hpp"
#include "inbox/inbox_dead_table.hpp"
#include "inbox/letters_in_flight.hpp"
#include "inbox/shared_reconnect.hpp"
#include "postgres/connection.hpp"

namespace pillion::inbox {

/// Sends a consumer's dead letters from its database to `<queue>.dead`: one thread, with a
/// connection of its own to each server, to the broker only while there are letters.
///
/// Letters are taken (for a while, so that no other instance sends them), sent, and removed when
/// the broker has confirmed them. No transaction is open and no row locked while the broker is
/// waited for. As long as its connection lives, a letter that was sent is waited for and not sent
/// again: a queue that hangs gets one copy and not one per attempt.
class DeadLetterSender {
 public:
  /// `wake` is raised when a letter was written.
  DeadLetterSender(const ConsumerOptions& options, std::string consumer, base::WakeEvent& wake,
                   std::shared_ptr<SharedReconnect> reconnect);

  void serve(const std::stop_token& stop);
  [[nodiscard]] bool ended() const { return ended_; }

 private:
  using Wait = std::chrono::milliseconds;

  void sendLast(const std::stop_token& stop);
  /// Returns how long there is nothing to do.
  Wait turn(const std::stop_token& stop);
  Wait work(const std::stop_token& stop);
  /// What the broker's answers mean, to the database.
  void record();
  /// False: there is nothing to be sent now.
  bool take(const std::stop_token& stop);
  void send(const std::vector<DeadLetterRow>& rows);
  void publish(const DeadLetterRow& row, const Job& job);
  void await(const std::stop_token& stop);
  void handle(const amqp::Incoming& incoming);
  void tell() const;
  /// What came of those that were sent: their pause, if the broker has not taken all.
  void judge();
  void lost(const BrokerError& error);
  void untaken(const Error& error, const std::stop_token& stop);
  void postponeRefused(Wait wait);
  /// A letter that waits for somebody to mend something: named once an hour.
  void tellStuck(std::int64_t seq, const Error& error);
  void keepLease();
  void openBroker();
  template <typename Work>
  void own(const std::stop_token& stop, const char* doing, Work work);
  void pause(Wait limit, const std::stop_token& stop);

  const ConsumerOptions& options_;
  std::string consumer_;
  std::string queue_;  // `<queue>.dead`
  std::string schema_;
  base::WakeEvent& wake_;
  std::shared_ptr<SharedReconnect> reconnect_;
  base::Reconnect queueOutage_;
  base::OnceAnHour told_;
  std::unique_ptr<postgres::Connection> database_;
  std::unique_ptr<amqp::Connection> broker_;
  LettersInFlight letters_;
  std::map<Wait, std::vector<std::int64_t>> postponed_;  // for so long, not written yet
  std::size_t atOnce_;                                   // so many letters
  bool isMissing_ = false;                               // the queue
  bool hasDeclared_ = false;                             // it, since letters last went
  bool blocked_ = false;                                 // publishers are
  base::Clock::Boot heard_{0};                           // of the broker, about letters
  base::Clock::Boot notBefore_{0};                       // of the next attempt
  std::atomic<bool> ended_{false};
};

}  // namespace pillion::inbox
