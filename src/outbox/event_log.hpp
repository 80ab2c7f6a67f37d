#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <pillion/error.hpp>
#include <set>
#include <string>
#include <vector>

#include "event/row.hpp"
#include "outbox/cursor.hpp"
#include "outbox/parked.hpp"

namespace pillion::outbox {

/// Rows in publishing order, and the cursor that is reached when all of them are settled.
struct Page {
  std::vector<Row> rows;
  Cursor after;
  bool more = false;  // there is more to read right now
};

/// What one checkpoint writes, in one transaction.
struct Checkpoint {
  Cursor cursor;
  bool cursorMoved = false;
  Cursor give;  // lanes to be free for other relays from here on
  ParkedChanges parked;
};

/// When so many relays in a row have ended and none of them moved a lane's cursor, one of the
/// lane's events may be the reason.
inline constexpr int kCrashesToSuspect = 3;
/// An event is to blame when so many relays that noted what they did have ended over it: one may
/// have been killed by chance.
inline constexpr int kDeathsToBlame = 3;

/// What a look at the other relays led to.
struct Balance {
  Cursor taken;          // lanes that are this relay's now
  int surplus = 0;       // so many should be given to others
  int locked = 0;        // so many were free, and could not be had: their rows are locked
  int crashes = 0;       // so many relays in a row ended without having moved one of the taken
  Lanes endangered = 0;  // those of the taken where they were enough to suspect an event
  std::set<std::int64_t> suspects;  // events over which relays have ended
};

/// The lanes belong to another relay now. Nothing was written; become a new incarnation.
class LeaseLost : public DatabaseError {
 public:
  LeaseLost() : DatabaseError(Kind::Unavailable, "another relay has taken the lanes over") {}
};

/// The turn's whole view of the database: narrow, so that a simulator can stand in for it. One
/// thread. Every call throws DatabaseError when the database is away, or refuses what it is asked
/// for; the log is then useless and a new one is opened.
class EventLog {
 public:
  virtual ~EventLog() = default;

  /// The next events of the cursor's lanes, at most `limit`.
  virtual Page fetch(const Cursor& from, std::size_t limit) = 0;

  /// Moves the cursor and the parked events, gives lanes away, and renews the lease. Throws
  /// LeaseLost, and then nothing was written.
  virtual void checkpoint(const Checkpoint& checkpoint) = 0;

  /// What is parked of these lanes.
  virtual ParkedSummary parkedSummary(Lanes lanes) = 0;

  /// Notes which event is handled next, for the case that this process ends over it; nothing: none
  /// is.
  virtual void noteInHand(std::optional<std::int64_t> id) = 0;
  /// It was, to its end: what is noted of it is forgotten.
  virtual void acquit(std::int64_t id) = 0;

  /// Tells writers whether a relay sleeps, so that they notify it.
  virtual void setIdle(bool idle) = 0;
};

}  // namespace pillion::outbox
