#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <pillion/relay.hpp>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "amqp/channel.hpp"
#include "base/clock.hpp"
#include "outbox/parked.hpp"
#include "relay/sick_types.hpp"
#include "relay/unsettled.hpp"

namespace pillion::relay {

/// Which events hold their key when they are parked and the reason leaves it open: those of some
/// types, or all.
struct HoldPolicy {
  bool everything = false;
  std::vector<std::string> types;  // topic patterns

  [[nodiscard]] bool holds(const std::string& type) const;
};

/// As much of an event as parking it needs.
struct ParkedAs {
  std::int64_t id = 0;
  int lane = 0;
  std::string_view type;
  std::string_view key;  // empty: none
};

/// What a closed channel means for the one message that was in flight on it.
outbox::Reason reasonOf(const amqp::ChannelClosed& closed);

/// Decides which events leave the main road, what that means for others, and what the next
/// checkpoint writes of it. No I/O but log lines.
class Parking {
 public:
  using Boot = base::Clock::Boot;

  Parking(const RelayOptions& options, const base::Clock& clock,
          base::Random& random = base::systemRandom());

  /// What was found parked of lanes that were taken over; and those lanes are given away.
  void addLanes(outbox::ParkedSummary parked);
  void dropLanes(outbox::Lanes lanes);

  // The main road.

  /// What becomes of an event that is ready to be sent.
  enum class Before {
    Send,
    Park,    // for a reason that was there before it
    Wait,    // soon it may be sent, see `follow`
    Settled  // it is parked already: a relay before this one did not get further
  };
  [[nodiscard]] Before before(const Item& item) const;
  /// Parks one that is not to be sent, for the reason that was there before it.
  void parkUnsent(const Item& item);
  /// Parks one that was tried, or cannot be.
  void park(const ParkedAs& event, outbox::Reason reason, int attempts);

  // The second road: events that were parked.

  /// It is published, or gone for another good reason.
  void settled(const Item& item);
  /// It stays parked after another attempt, for this reason.
  void retried(const Item& item, outbox::Reason reason);
  /// The first event of a held key waits for nothing but its type. As long as that is sick, the
  /// event is parked for the reason that the type has by now, and what that means for the key
  /// follows from it. True when something can be sent.
  bool isHead(const std::string& key, const outbox::ParkedAnswer::Head& head);
  /// It stays for good: no message can be made of it, or relays have ended over it.
  void giveUp(const outbox::ParkedRow& row, outbox::Reason reason);
  /// Nothing of the type is parked that could be sent; it is healthy.
  void recovered(const std::string& type);

  /// While the second road sends the last of what is parked, the main road keeps what would have to
  /// be parked behind it: else there would be no last one where events flow all the time.
  void follow(bool on) { following_ = on; }
  [[nodiscard]] bool following() const { return following_; }
  /// Grows when something is parked that the second road may send by now.
  [[nodiscard]] std::uint64_t parkedMovable() const { return movable_; }

  [[nodiscard]] SickTypes& types() { return types_; }
  [[nodiscard]] const SickTypes& types() const { return types_; }

  /// Some of the held keys, other ones each time, at most so many.
  std::vector<std::string> someHeldKeys(std::size_t most);
  [[nodiscard]] bool anyHeldKey() const { return !keys_.empty(); }
  [[nodiscard]] bool holds(const std::string& key) const { return keys_.contains(key); }
  /// Is the key held, and has nothing changed there since `serial()` was this? Else what the
  /// database said of it then is no longer true.
  [[nodiscard]] bool heldSince(const std::string& key, std::uint64_t askedAt) const;
  /// Nothing in the database holds it.
  void release(const std::string& key) { keys_.erase(key); }
  [[nodiscard]] std::uint64_t serial() const { return serial_; }

  /// Is the time of the next refused one to be thought of?
  [[nodiscard]] bool anyRefused() const { return anyRefused_; }
  void foundRefused(bool any) { anyRefused_ = any; }

  /// Says every few minutes which types are still sick.
  void remind(Boot now);

  [[nodiscard]] const outbox::ParkedChanges& changes() const { return changes_; }
  /// Would reading the parked events show something untrue?
  [[nodiscard]] bool mustBeWritten() const {
    return !changes_.park.empty() || !changes_.settled.empty() || otherKind_;
  }
  outbox::ParkedChanges takeChanges() {
    otherKind_ = false;
    return std::exchange(changes_, {});
  }

 private:
  /// A key with parked events that hold it.
  struct HeldKey {
    int lane = 0;
    std::int64_t firstId = 0;  // events before it, which are read again after a crash, do not wait
    std::size_t events = 0;
    std::uint64_t serial = 0;  // of the latest change
  };

  [[nodiscard]] bool holdsKey(outbox::Reason reason, const std::string& type) const;
  [[nodiscard]] const HeldKey* holding(const Item& item) const;
  void hold(const std::string& key, int lane, std::int64_t id);
  void unhold(const std::string& key);
  void noteSick(const std::string& type, outbox::Reason reason);

  const base::Clock& clock_;
  HoldPolicy policy_;
  SickTypes types_;
  std::unordered_map<std::string, HeldKey> keys_;
  std::string lastLookedAfter_;
  std::vector<std::int64_t> ahead_;  // sorted ids of parked events that will be read once more
  bool anyRefused_ = false;
  bool following_ = false;
  std::uint64_t movable_ = 0;
  std::uint64_t serial_ = 0;
  Boot nextReminder_{0};
  outbox::ParkedChanges changes_;
  bool otherKind_ =
      false;  // one of them is parked for a reason of another kind than before, or holds otherwise
};

}  // namespace pillion::relay
