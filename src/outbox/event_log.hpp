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
  Cursor give;  // lanes to be free for other relays from here on
  std::vector<Park> park;
  std::vector<std::int64_t> unpark;       // parked ids that were routed after all
  std::vector<std::int64_t> refuse;       // parked ids that the broker will never take
  std::vector<std::int64_t> stillParked;  // parked ids that were tried in vain
};

/// What a look at the other relays led to.
struct Balance {
  Cursor taken;     // lanes that are this relay's now
  int surplus = 0;  // so many should be given to others
  int relays = 1;   // alive, this one included
};

/// The relay's whole view of the database: narrow, so that a simulator can stand in for it.
/// One thread. Every call throws DatabaseError when the database is away; the log is then useless
/// and a new one is opened.
class EventLog {
 public:
  virtual ~EventLog() = default;

  /// Takes free lanes, and those of relays that are gone, up to this relay's fair share; says how
  /// many it has above that.
  virtual Balance balance() = 0;

  /// The next events of the cursor's lanes.
  virtual Page fetch(const Cursor& from) = 0;

  /// Moves the cursor and the parked events, gives lanes away, and renews the lease. False: the
  /// lease is lost, nothing was written, stop publishing.
  virtual bool checkpoint(const Checkpoint& checkpoint) = 0;

  /// Gives all lanes back at the cursor of the last checkpoint.
  virtual void release() = 0;

  /// Types that have events of these lanes parked as unroutable.
  virtual std::vector<std::string> parkedTypes(Lanes lanes) = 0;
  /// The oldest of them of a type, at most `limit`, and no more bytes than a page.
  virtual std::vector<Row> fetchParked(const std::string& type, Lanes lanes, std::size_t limit) = 0;

  /// Empties a ring child whose events are all published, when there is one.
  virtual void reclaimSpace() = 0;

  /// Names this outbox towards the broker: the same for every relay of it, in whatever process.
  [[nodiscard]] virtual std::string identity() const = 0;
};

}  // namespace pillion::outbox
