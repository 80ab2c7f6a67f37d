#pragma once

#include <atomic>
#include <map>
#include <set>
#include <string>
#include <thread>

#include "fixture.hpp"

// Events in whose data the truth about their order stands: the version of their key, which the
// writer's transactions count up.

namespace pillion::test {

/// What has arrived. The first arrival of each event must carry the version that follows the last
/// one of its key.
class Versions {
 public:
  void add(const amqp::Message& message);

  [[nodiscard]] std::size_t events() const { return ids_.size(); }
  [[nodiscard]] std::size_t repeated() const { return repeated_; }
  [[nodiscard]] std::size_t deliveries() const { return events() + repeated(); }
  [[nodiscard]] int outOfOrder() const { return outOfOrder_; }

 private:
  std::set<std::string> ids_;
  std::map<std::string, int> version_;
  std::size_t repeated_ = 0;
  int outOfOrder_ = 0;
};

/// What comes out of a queue.
class Arrivals : public Versions {
 public:
  explicit Arrivals(TestQueue& queue) : queue_(queue) {}

  void readFor(std::chrono::milliseconds time);
  /// Reads until so many events have come; false when time is up before.
  [[nodiscard]] bool reach(std::size_t events, std::chrono::milliseconds limit);

 private:
  TestQueue& queue_;
};

/// An outbox with one writer, which takes the keys in turns: the n-th turn writes version n of all.
struct VersionedFlow : TestOutbox {
  static constexpr int kKeys = 200;

  explicit VersionedFlow(int keys = kKeys) : keys_(keys) {}

  /// So many events in one transaction.
  void write(pqxx::connection& connection, int events);
  void write(int events);
  /// Such transactions in a thread, with a pause after each, until endWriting() or the end of this.
  void beginWriting(int events, std::chrono::milliseconds pause = 0ms);
  void endWriting();
  /// Events that are committed.
  [[nodiscard]] std::size_t written() const { return static_cast<std::size_t>(written_); }

 private:
  int keys_;
  std::atomic<int> written_{0};
  std::jthread writer_;  // the last: it ends first
};

/// The same with a queue that sees all of it, and a look at who relays it.
struct WatchedFlow : VersionedFlow {
  TestQueue queue{exchange};
  Arrivals arrivals{queue};

  /// Nothing less and nothing else than what was written; for when nobody writes any more.
  [[nodiscard]] bool allArrived();
  [[nodiscard]] std::map<std::string, int> shares() const { return lanesPerHolder(database); }
  [[nodiscard]] bool becomes(const std::map<std::string, int>& expected,
                             std::chrono::seconds limit = 15s) const {
    return eventually(limit, [&] { return shares() == expected; });
  }
};

}  // namespace pillion::test
