#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "event/row.hpp"
#include "outbox/cursor.hpp"

namespace pillion::outbox {

/// Rows in publishing order, and the cursor that is reached when all of them are settled.
struct Page {
  std::vector<Row> rows;
  Cursor after;
  bool more = false;  // there is more to read right now
};

/// An event to be moved to the parked events.
struct Park {
  std::int64_t id = 0;
  std::string reason;
};

/// What one checkpoint writes, in one transaction.
struct Checkpoint {
  Cursor cursor;
  bool cursorMoved = false;
  std::vector<Park> park;
  std::vector<std::int64_t> unpark;       // parked ids that were routed after all
  std::vector<std::int64_t> refuse;       // parked ids that the broker will never take
  std::vector<std::int64_t> stillParked;  // parked ids that were tried in vain
};

/// The relay's whole view of the database: narrow, so that a simulator can stand in for it.
/// One thread. Every call throws DatabaseError when the database is away; the log is then useless
/// and a new one is opened.
class EventLog {
 public:
  virtual ~EventLog() = default;

  /// Takes all lanes when they are free, or held by a relay that is gone. Nothing when they are
  /// not.
  virtual std::optional<Cursor> claim() = 0;

  /// The next events after the cursor.
  virtual Page fetch(const Cursor& from) = 0;

  /// Moves the cursor and the parked events, and renews the lease. False: the lease is lost,
  /// nothing was written, stop publishing.
  virtual bool checkpoint(const Checkpoint& checkpoint) = 0;

  /// Gives the lanes back at the cursor of the last checkpoint.
  virtual void release() = 0;

  /// Types that have events parked as unroutable.
  virtual std::vector<std::string> parkedTypes() = 0;
  /// The oldest of them of a type, at most `limit`.
  virtual std::vector<Row> fetchParked(const std::string& type, std::size_t limit) = 0;

  /// Empties a ring child whose events are all published, when there is one.
  virtual void reclaimSpace() = 0;

  /// Names this outbox towards the broker: the same for every relay of it, in whatever process.
  [[nodiscard]] virtual std::string identity() const = 0;
};

}  // namespace pillion::outbox
