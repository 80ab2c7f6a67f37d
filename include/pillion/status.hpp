/// What an operator wants to know of an outbox, read from its tables alone.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <pillion/options.hpp>
#include <string>
#include <vector>

namespace pillion {

struct LaneStatus {
  int lane = 0;               ///< 0 to 63; a key always has the same lane
  std::string cursor;         ///< pg_snapshot: what it sees is published and confirmed
  bool paging = false;        ///< inside a backlog
  std::int64_t token = 0;     ///< fencing token of the holder, 0 when free
  std::string holder;         ///< name of the relay that holds the lane, empty when free
  bool leaseExpired = false;  ///< the holder has not renewed in time
};

struct OutboxStatus {
  std::uint64_t pending = 0;      ///< committed, not yet confirmed and checkpointed
  bool pendingIsMinimum = false;  ///< counting stopped at one million
  std::optional<std::chrono::milliseconds> oldest;  ///< age of the oldest pending event
  std::uint64_t parked = 0;                         ///< waiting for a queue to be bound
  std::optional<std::chrono::milliseconds> oldestParked;
  std::vector<LaneStatus> lanes;
};

/// Reads the status in one read-only transaction. Throws ConfigError, SchemaError or DatabaseError.
/// Published events of the last checkpoint interval still count as pending.
[[nodiscard]] OutboxStatus readOutboxStatus(const DatabaseOptions& options = {});

}  // namespace pillion
