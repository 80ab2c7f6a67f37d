#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <set>
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

/// Why an event is parked, and how often it was sent for it.
struct Park {
  std::int64_t id = 0;
  std::string reason;
  int attempts = 0;
};

/// What is to be written about the parked events.
struct ParkedChanges {
  std::vector<Park> park;            // moved there from the log
  std::vector<std::int64_t> unpark;  // published after all
  std::vector<Park> retried;         // still there: the reason now, and attempts to be added
};

/// What is parked of some lanes.
struct ParkedKey {
  std::string key;
  int lane = 0;
  std::int64_t firstId = 0;
  bool due = false;  // its oldest parked event only waited for an earlier one
};
struct ParkedSummary {
  std::vector<std::string> unroutableTypes;
  bool anyRefused = false;
  std::vector<ParkedKey> keys;
};

/// Events that waited behind others of their keys.
struct HeldRows {
  std::vector<Row> rows;
  std::set<std::string> headed;  // keys that an event holds that is parked for another reason
  bool cut = false;              // there may be more
};

/// What one checkpoint writes, in one transaction.
struct Checkpoint {
  Cursor cursor;
  bool cursorMoved = false;
  Cursor give;  // lanes to be free for other relays from here on
  ParkedChanges parked;
};

/// From so many relays on that ended in a row without having moved a lane's cursor, one of its
/// events is suspected.
inline constexpr int kCrashesToSuspect = 3;
/// So many of those that note what they do must end over one event before it is parked: one may
/// have been killed by chance.
inline constexpr int kDeathsToBlame = 2;

/// What a look at the other relays led to.
struct Balance {
  Cursor taken;          // lanes that are this relay's now
  int surplus = 0;       // so many should be given to others
  int crashes = 0;       // so many relays in a row ended without having moved one of the taken
  Lanes endangered = 0;  // those of the taken where they were enough to suspect an event
  std::set<std::int64_t> suspects;  // events over which relays have ended
};

/// Which parked events hold their key: those of some types, or all.
struct HoldPolicy {
  bool everything = false;
  std::vector<std::string> types;  // topic patterns

  [[nodiscard]] bool any() const { return everything || !types.empty(); }
  [[nodiscard]] bool holds(const std::string& type) const;
};

/// The relay's whole view of the database: narrow, so that a simulator can stand in for it.
/// One thread. Every call throws DatabaseError when the database is away, or refuses what it is
/// asked for; the log is then useless and a new one is opened.
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

  /// Notes which event is about to be handled, for the case that this process ends over it;
  /// nothing: none is.
  virtual void suspect(std::optional<std::int64_t> id) = 0;

  /// What is parked of these lanes. The keys are those with events that are held, or hold others.
  virtual ParkedSummary parkedSummary(Lanes lanes, const HoldPolicy& hold) = 0;
  /// The oldest unroutable events of a type, at most `limit`, and no more bytes than a page.
  virtual std::vector<Row> fetchParked(const std::string& type, Lanes lanes, std::size_t limit) = 0;
  /// The oldest held events of these keys, up to one that is parked for another reason and holds
  /// its key.
  virtual HeldRows fetchHeld(const std::vector<std::string>& keys, const HoldPolicy& hold) = 0;
  /// The first refused event with a higher id, if there is one.
  virtual std::vector<Row> fetchRefused(Lanes lanes, std::int64_t after) = 0;

  /// Moves scheduled events that are due into the log, a page at most; returns when to ask again.
  virtual std::chrono::milliseconds moveDue() = 0;

  /// Tells writers whether a relay sleeps, so that they notify it.
  virtual void setIdle(bool idle) = 0;

  /// Empties a ring child whose events are all published, when there is one.
  virtual void reclaimSpace() = 0;

  /// Names this outbox towards the broker: the same for every relay of it, in whatever process.
  [[nodiscard]] virtual std::string identity() const = 0;
};

}  // namespace pillion::outbox
