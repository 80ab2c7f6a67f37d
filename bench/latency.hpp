#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <pqxx/pqxx>
#include <string>

#include "steady_load.hpp"

namespace pillion::bench {

/// One outbox and one relay process under a steady load, measured as often as wanted.
class CommitToDelivery {
 public:
  CommitToDelivery(BenchServers& servers, int perSecond);
  /// Throws when the relay does not end well.
  void finish();

  [[nodiscard]] const std::string& database() const { return database_; }
  /// From just before COMMIT to the delivery at a consumer. Begins with two seconds that do not
  /// count, and ends when everything was delivered.
  Percentiles measure(std::chrono::seconds time);

 private:
  BenchServers& servers_;
  int perSecond_;
  std::string database_;
  support::Process relay_;
  std::unique_ptr<EventPublisher> publisher_;
  pqxx::connection connection_;
  std::size_t next_ = 0;  // number of the next event
};

/// The floor: from a bare publish to its delivery on the same broker, at the same rate.
Percentiles publishToDelivery(BenchServers& servers, int perSecond, std::chrono::seconds time);

}  // namespace pillion::bench
