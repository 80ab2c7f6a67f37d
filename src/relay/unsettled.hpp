#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "amqp/message.hpp"
#include "outbox/cursor.hpp"
#include "outbox/reason.hpp"

namespace pillion::relay {

/// Events that were read together, and the cursor that is reached when all of them are settled.
struct LoadedPage {
  outbox::Cursor after;
  std::size_t unsettled = 0;
  bool hadEvents = false;
};

/// Where a parked event is, and as what it was read.
struct ParkedPlace {
  enum class As { Pass, Probe, Refused } as = As::Pass;
  std::int64_t seq = 0;
  outbox::Reason reason = outbox::Reason::Held;
  bool holds = false;
};

/// One event on its way through the relay.
struct Item {
  Item() = default;
  Item(const Item&) = delete;
  Item& operator=(const Item&) = delete;
  ~Item() {
    while (nextOfKey) nextOfKey = std::move(nextOfKey->nextOfKey);  // a long chain, no recursion
  }

  std::int64_t id = 0;  // outbox id
  int lane = 0;
  std::uint64_t key = 0;  // hash of the aggregate key; meaningless without hasKey
  bool hasKey = false;
  std::optional<ParkedPlace> parked = std::nullopt;  // nothing: it came from the log
  std::optional<std::chrono::system_clock::time_point> expiresAt = std::nullopt;
  LoadedPage* page = nullptr;  // the page it came with; none for a parked one
  std::size_t bytes = 0;
  amqp::Message message;
  std::unique_ptr<Item> nextOfKey;  // waits for this one

  [[nodiscard]] const std::string& keyText() const { return message.attributes->key; }
};
using ItemPtr = std::unique_ptr<Item>;

/// What is in memory between the fetch cursor and the confirmed cursor: pages of events, of which
/// some are ready, some in flight, some waiting for an earlier event of their key. No I/O.
///
/// An event is handed out only when no earlier one of its key is unsettled: were two of a key in
/// flight, a nack of the first and an ack of the second would turn them round.
class Unsettled {
 public:
  explicit Unsettled(outbox::Cursor settledUpTo = {})
      : fetched_(settledUpTo), settledUpTo_(std::move(settledUpTo)) {}

  /// Takes the events of a page read from `fetched()` for some of its lanes, in order; `after` is
  /// where those lanes are when all of them are settled. `passed`: so many more were on the page
  /// and are dealt with already. A page without any event only moves the cursor, which need not be
  /// written at once.
  void addPage(const outbox::Cursor& after, std::vector<ItemPtr> items, std::size_t passed = 0);

  /// An event that was parked: it has no place in the log, and no page.
  void addParked(ItemPtr item);

  /// More lanes, which are where they were claimed.
  void addLanes(const outbox::Cursor& claimed);
  /// Lanes of which something is unsettled.
  [[nodiscard]] outbox::Lanes busyLanes() const;
  /// Lets idle lanes go; returns where they are.
  outbox::Cursor takeLanes(outbox::Lanes idle);

  /// Lanes with so much unsettled that they are not read further until they have drained: the
  /// others must not wait for a key that has a thousand events.
  [[nodiscard]] outbox::Lanes clogged() const { return clogged_; }
  /// How many events are unsettled in the other lanes.
  [[nodiscard]] std::size_t flowingEvents() const { return events_ - cloggedEvents_; }

  [[nodiscard]] bool hasReady() const { return !ready_.empty(); }
  [[nodiscard]] const Item& ready() const { return *ready_.front(); }
  /// Hands out the next event to send; it counts as unsettled until `settle`.
  ItemPtr take();

  /// Published, or parked: the next event of its key becomes ready, and the page may be complete.
  void settle(ItemPtr item);
  /// Not settled after all (a lost channel): to be sent again, before anything else.
  void putBack(std::vector<ItemPtr> items);

  /// Where the next page begins, and up to where everything is settled.
  [[nodiscard]] const outbox::Cursor& fetched() const { return fetched_; }
  [[nodiscard]] const outbox::Cursor& settledUpTo() const { return settledUpTo_; }
  /// Has that moved since it was last written: past events, or with time alone?
  enum class Moved { No, WithTime, PastEvents };
  [[nodiscard]] Moved moved() const { return moved_; }
  void written() { moved_ = Moved::No; }

  [[nodiscard]] std::size_t events() const { return events_; }
  [[nodiscard]] std::size_t bytes() const { return bytes_; }

 private:
  void enter(ItemPtr item);
  void count(const Item& item, bool more);
  void releaseKey(Item& item);
  void complete(LoadedPage* page);

  outbox::Cursor fetched_;
  outbox::Cursor settledUpTo_;
  Moved moved_ = Moved::No;
  std::list<LoadedPage> pages_;  // all but the last have unsettled events
  std::deque<ItemPtr> ready_;
  std::unordered_map<std::uint64_t, Item*> lastOfKey_;  // per unsettled key, end of its chain
  std::array<std::size_t, outbox::kLanes> ofLane_{};
  outbox::Lanes clogged_ = 0;
  std::size_t cloggedEvents_ = 0;
  std::size_t events_ = 0;
  std::size_t bytes_ = 0;
};

/// A stored event as an item, made of the row's texts; or why it can never be one, and then the row
/// is as it was.
std::variant<ItemPtr, amqp::Problem> itemFrom(Row& row);

}  // namespace pillion::relay
