/// What an operator wants to know of an outbox, read from its tables alone.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <pillion/options.hpp>
#include <string>
#include <vector>

namespace pillion {

struct LaneStatus {
  int lane = 0;             ///< 0 to 63; a key always has the same lane
  std::string cursor;       ///< pg_snapshot: what it sees is published and confirmed
  bool paging = false;      ///< inside a backlog
  std::int64_t token = 0;   ///< fencing token of the holder, 0 when free
  std::string holder;       ///< name of the relay that holds the lane, empty when free
  bool holderGone = false;  ///< its database session has ended, or its lease has run out
};

/// A transaction that keeps published events from being emptied. It delays space, never delivery.
struct SpaceHolder {
  int pid = 0;  ///< of its database session; 0 for a prepared transaction
  std::string application;
  std::string user;
  std::string state;            ///< as pg_stat_activity says, or "prepared"
  std::chrono::seconds age{0};  ///< since it began
  int lockedChildren = 0;       ///< parts of the ring it has touched: those cannot be emptied
  bool writes = false;          ///< it has a transaction id
  std::string preparedAs;       ///< name of a prepared transaction, for ROLLBACK PREPARED
};

struct OutboxStatus {
  std::uint64_t pending = 0;      ///< committed, not yet confirmed and checkpointed
  bool pendingIsMinimum = false;  ///< counting stopped at one million
  std::optional<std::chrono::milliseconds> oldest;      ///< age of the oldest pending event
  std::uint64_t parked = 0;                             ///< events that could not be published yet
  std::map<std::string, std::uint64_t> parkedByReason;  ///< unroutable, refused, held, …
  std::uint64_t scheduled = 0;                          ///< due later
  int childrenInUse = 0;                                ///< of the ring's eight
  std::uint64_t bytes = 0;                              ///< of the outbox on disk, indexes included
  std::optional<std::chrono::milliseconds> oldestParked;
  std::vector<LaneStatus> lanes;
  std::vector<SpaceHolder> spaceHolders;  ///< open for ten seconds or longer, the oldest first
};

/// Reads the status in one read-only transaction. Throws ConfigError, SchemaError or DatabaseError.
/// Published events of the last checkpoint interval still count as pending.
[[nodiscard]] OutboxStatus readOutboxStatus(const DatabaseOptions& options = {});

/// What a consumer has in the database: events whose handler failed, and those behind them.
struct ConsumerStatus {
  std::string consumer;                 ///< name of its queue
  std::uint64_t failed = 0;             ///< waiting for their next attempt
  std::uint64_t held = 0;               ///< waiting behind a failed one of their key
  std::uint64_t givenUp = 0;            ///< on their way to the dead-letter queue
  std::chrono::milliseconds oldest{0};  ///< since the oldest of them was parked
};

/// One entry for each consumer that has parked events. Throws as above.
[[nodiscard]] std::vector<ConsumerStatus> readInboxStatus(const DatabaseOptions& options = {});

}  // namespace pillion
