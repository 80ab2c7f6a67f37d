#pragma once

#include <atomic>
#include <string>
#include <vector>

#include "bare_publisher.hpp"
#include "bench_servers.hpp"

namespace pillion::bench {

enum class QueueKind {
  Quorum,  // as services have them
  Full,    // takes five messages and refuses all others: x-overflow reject-publish
};

/// A database and an exchange of their own, with as many queues as a measurement wants, so that
/// some events can be without one, or with one that takes nothing.
class Stage {
 public:
  explicit Stage(BenchServers& servers);
  /// Removes the queues.
  ~Stage();
  Stage(const Stage&) = delete;
  Stage& operator=(const Stage&) = delete;

  [[nodiscard]] BenchServers& servers() const { return servers_; }
  [[nodiscard]] const std::string& database() const { return database_; }
  [[nodiscard]] const std::string& exchange() const { return exchange_; }
  [[nodiscard]] BrokerOptions broker() const;

  /// Returns its name.
  std::string addQueue(const std::string& pattern, QueueKind kind = QueueKind::Quorum);
  void removeQueue(const std::string& name);
  /// A quorum queue whose leader hangs, as it does without its majority: what is sent to it is
  /// neither taken nor refused. Nobody may ask for its depth meanwhile.
  void suspendLeader(const std::string& name);
  [[nodiscard]] std::unique_ptr<QueueDepth> depthOf(const std::string& name) const;

  [[nodiscard]] support::Process startRelay(const std::vector<std::string>& arguments = {}) const;

 private:
  void resumeLeaders();

  BenchServers& servers_;
  std::string database_;
  std::string exchange_;
  std::vector<std::string> queues_;
  std::vector<std::string> suspended_;
};

/// Waits until something was said that an operator would look into, at most so long; false if not.
bool awaitWarning(const support::Process& relay, std::chrono::milliseconds limit);

/// Ends a relay that may have to wait for what is sick; never throws for that.
void endRelay(support::Process& relay);

}  // namespace pillion::bench
