#pragma once

#include <amqp/connection.hpp>
#include <map>
#include <mutex>
#include <pillion/pillion.hpp>
#include <span>
#include <string>
#include <vector>

#include "fixture.hpp"
#include "support/process.hpp"

// What the tests of the consuming side share.

namespace pillion::test {

/// A database with a table `journal` in it, and an exchange: one service's whole world. The journal
/// has no unique key, so an effect that happens twice shows as two rows.
struct World {
  explicit World(const std::string& schema = "pillion");
  /// Removes all queues. Tests run one after the other, so they are this one's.
  ~World();
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  [[nodiscard]] long journal() const { return database.count("select count(*) from journal"); }
  [[nodiscard]] long journalIds() const {
    return database.count("select count(distinct event_id) from journal");
  }
  /// Ids remembered by the inbox.
  [[nodiscard]] long inbox() const;
  /// Events that are waiting for their next attempt, or behind one.
  [[nodiscard]] long parked() const;
  /// Dead letters that are on their way to the broker.
  [[nodiscard]] long letters() const;
  /// Rows in the outbox.
  [[nodiscard]] long outbox() const;
  /// Each journal row is of the number after the one before it of its key.
  [[nodiscard]] bool ordered() const;
  /// Quick retries: three attempts, 10 ms apart.
  [[nodiscard]] ConsumerOptions consumerOptions() const;

  TestDatabase database;
  std::string exchange = uniqueName("exchange");
};

/// The effect of one event: a row in the journal, through the handler's transaction.
void writeJournal(const Event& event, Transaction& tx, const std::string& note = "");

/// A consumer of all events ("#") that writes the journal; not started yet.
std::unique_ptr<EventConsumer> journalConsumer(const World& world, const std::string& service);
std::unique_ptr<EventConsumer> journalConsumer(const ConsumerOptions& options,
                                               const std::string& service);

/// Leaves the topology of this consumer behind, with nobody consuming.
void declareOnly(const World& world, const std::string& service);

/// `count` events of one key, numbered from 1 in their data.
std::vector<Event> numberedEvents(std::size_t count, const std::string& key = "key");

/// `perKey` events of each of `keys`, in turns, numbered from `first`.
std::vector<Event> interleaved(int keys, int perKey, int first = 1);
/// As a relay sends them, with the lanes of their keys.
std::vector<amqp::Message> withLanes(const std::vector<Event>& events);

/// The event as the relay would send it.
amqp::Message messageOf(const Event& event);
/// Published and confirmed when this returns; throws when one of them was not routed.
void send(const std::string& exchange, std::span<const amqp::Message> messages);
void send(const std::string& exchange, std::span<const Event> events);
void send(const std::string& exchange, const Event& event);

/// The next `count` dead letters of this consumer's queue, or fewer when time is up.
std::vector<amqp::Message> readDeadLetters(const std::string& queue, std::size_t count,
                                           std::chrono::milliseconds limit = 15s);
/// A header's value; "(none)" when it is not there.
std::string header(const amqp::Message& message, const std::string& name);

/// Pillion's log lines from construction to destruction, in memory (and on stderr as ever).
class LogCapture {
 public:
  LogCapture();
  ~LogCapture();
  LogCapture(const LogCapture&) = delete;
  LogCapture& operator=(const LogCapture&) = delete;

  [[nodiscard]] std::vector<std::string> lines() const;
  /// Lines that hold this text.
  [[nodiscard]] std::size_t count(const std::string& text = "") const;
  [[nodiscard]] std::string text() const;

 private:
  struct Store;
  std::shared_ptr<Store> store_;
};

/// A journal consumer in a process of its own (consumer_process.cpp).
class ConsumerProcess {
 public:
  ConsumerProcess(const World& world, const std::string& service,
                  const std::string& failpoints = "",
                  const std::vector<std::string>& arguments = {});

  /// Waits until it has subscribed.
  void awaitReady() const;
  /// SIGTERM; returns the counters that it prints at its end. Throws unless it exits with 0.
  std::map<std::string, long> stop();
  [[nodiscard]] support::Process& process() { return process_; }

 private:
  support::Process process_;
};

/// The exit status of a process that SIGKILL ended.
inline constexpr int kKilled = 128 + 9;

}  // namespace pillion::test
