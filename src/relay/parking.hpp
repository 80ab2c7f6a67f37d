#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <pillion/relay.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/backoff.hpp"
#include "base/clock.hpp"
#include "outbox/event_log.hpp"
#include "relay/pipeline.hpp"
#include "relay/unroutable_types.hpp"

namespace pillion::relay {

/// The events that could not be published when it was their turn, and what waits behind them.
///
/// Reasons, as stored: `unroutable` (no queue took it; probed, one per type), `refused` (the broker
/// closed the channel over it; tried again now and then), `invalid` and the like (no message can be
/// made of it), `suspect` (relays ended over it), `held` (an earlier event of its key is parked and
/// holds it; follows as soon as that is published, or discarded by an operator).
///
/// Keeps what is to be written with the next checkpoint, and reads parked events back when they are
/// due. One thread.
class Parking {
 public:
  using Boot = base::Clock::Boot;

  Parking(outbox::EventLog& log, const RelayOptions& options, const base::Clock& clock);

  void addLanes(outbox::Lanes lanes);
  void dropLanes(outbox::Lanes lanes);

  /// For an event from the log: the reason to park it unsent, so that it does not overtake one that
  /// is parked.
  [[nodiscard]] std::optional<std::string> reasonToPark(const Item& item) const;
  void park(const Item& item, const std::string& reason, int attempts);

  /// For an event that was parked: must it go back unsent, since an older one of those read with it
  /// has come back?
  [[nodiscard]] bool mustGoBack(const Item& item) const;
  void goBack(const Item& item);
  /// It was sent, and published; or it had expired and was not; or it came back for a reason.
  void published(const Item& item);
  void expired(const Item& item);
  void cameBack(const Item& item, const std::string& reason);

  /// Has the type's queue been missing so far?
  [[nodiscard]] bool knowsUnroutable(const std::string& type) const {
    return unroutable_.contains(type);
  }

  /// When `fetch` has something to do next.
  [[nodiscard]] std::optional<Boot> nextDue() const;
  /// The parked events that are to be sent now. What has changed must have been written before.
  std::vector<ItemPtr> fetch(Boot now, outbox::Lanes lanes);

  [[nodiscard]] bool changed() const;
  [[nodiscard]] std::size_t parkedUnwritten() const { return changes_.park.size(); }
  outbox::ParkedChanges takeChanges() { return std::exchange(changes_, {}); }

 private:
  /// A key with events that are held, or hold others.
  struct HeldKey {
    int lane = 0;
    /// The oldest parked one. Events before it, which are read again after a crash, do not wait.
    std::int64_t firstId = std::numeric_limits<std::int64_t>::max();
    std::size_t onTheirWay = 0;
    bool anyCameBack = false;  // among those read last
  };

  std::vector<ItemPtr> fetchUnroutable(const UnroutableTypes::Due& due, outbox::Lanes lanes);
  std::vector<ItemPtr> fetchHeld();
  std::vector<ItemPtr> fetchRefused(Boot now, outbox::Lanes lanes);
  std::vector<ItemPtr> itemsOf(std::vector<Row> rows, ReadAs readAs);
  void holdKey(const std::string& key, int lane, std::int64_t id);
  void leaveHeld(const Item& item, bool holdsOthers);
  void release(const std::string& key);
  void remove(const Item& item);
  void checkHeldKeys(Boot now);

  outbox::EventLog& log_;
  const RelayOptions& options_;
  const base::Clock& clock_;
  outbox::HoldPolicy hold_;
  UnroutableTypes unroutable_;
  std::map<std::string, HeldKey> heldKeys_;
  std::set<std::string> dueKeys_;  // of those: the oldest parked event may only have waited
  Boot nextHeldCheck_{0};
  std::string lastChecked_;          // a key
  std::optional<Boot> refusedNext_;  // nothing: none is parked as refused, or one is on its way
  std::int64_t refusedAfter_ = 0;    // id of the one that was tried last
  base::Backoff refusedBackoff_;
  outbox::ParkedChanges changes_;
};

}  // namespace pillion::relay
