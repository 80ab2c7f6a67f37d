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
#include <variant>
#include <vector>

#include "amqp/message.hpp"
#include "outbox/event_log.hpp"

namespace pillion::relay {

/// Events that were read together, and the cursor that is reached when all of them are settled.
struct LoadedPage {
  outbox::Cursor after;
  std::size_t unsettled = 0;
  bool hadEvents = false;
};

/// Where an event was read from: the log, or the parked events, and then for what reason.
enum class ReadAs { Logged, Unroutable, Held, Refused };

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
  ReadAs readAs = ReadAs::Logged;
  bool wasNacked = false;
  bool hung = false;  // was once left unconfirmed for too long
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
class Pipeline {
 public:
  explicit Pipeline(outbox::Cursor confirmed) : fetched_(confirmed), confirmed_(confirmed) {}

  /// Takes the events of a page read from `fetched()`, in order; `after` is reached when all of
  /// them are settled. `passed`: so many more were on the page and are dealt with already. A page
  /// without any event only moves the cursor, which need not be written for it.
  void addPage(const outbox::Cursor& after, std::vector<ItemPtr> items, std::size_t passed = 0);

  /// Events read from the parked ones: they have no place in the log, and no page.
  void addParked(ItemPtr item);

  /// More lanes, which are where they were claimed.
  void addLanes(const outbox::Cursor& claimed);
  /// Lanes of which nothing is unsettled.
  [[nodiscard]] outbox::Lanes idleLanes() const;
  /// Lets idle lanes go; returns where they are.
  outbox::Cursor takeLanes(outbox::Lanes idle);

  [[nodiscard]] bool hasReady() const { return !ready_.empty(); }
  [[nodiscard]] const Item& ready() const { return *ready_.front(); }
  /// Hands out the next event to send; it counts as unsettled until `settle`.
  ItemPtr take();

  /// Published, or parked: the next event of its key becomes ready, and the page may be complete.
  void settle(ItemPtr item);
  /// Not settled after all (nack, lost connection): to be sent again, before anything else.
  void putBack(std::vector<ItemPtr> items);

  /// Where the next page begins, and up to where everything is settled.
  [[nodiscard]] const outbox::Cursor& fetched() const { return fetched_; }
  [[nodiscard]] const outbox::Cursor& confirmed() const { return confirmed_; }
  /// True once after events were settled and the confirmed cursor has moved past them.
  [[nodiscard]] bool confirmedMoved() const { return confirmedMoved_; }
  void clearConfirmedMoved() { confirmedMoved_ = false; }

  [[nodiscard]] std::size_t unsettledEvents() const { return unsettledEvents_; }
  [[nodiscard]] std::size_t unsettledBytes() const { return unsettledBytes_; }

 private:
  void enter(ItemPtr item);
  void releaseKey(Item& item);
  void complete(LoadedPage* page);

  outbox::Cursor fetched_;
  outbox::Cursor confirmed_;
  bool confirmedMoved_ = false;
  std::list<LoadedPage> pages_;  // all but the last have unsettled events
  std::deque<ItemPtr> ready_;
  std::unordered_map<std::uint64_t, Item*> lastOfKey_;  // per unsettled key, end of its chain
  std::array<std::size_t, outbox::kLanes> unsettledOfLane_{};
  std::size_t unsettledEvents_ = 0;
  std::size_t unsettledBytes_ = 0;
};

/// A stored event as an item, made of the row's texts; or why it can never be one, and then the row
/// is as it was.
std::variant<ItemPtr, amqp::Problem> itemFrom(Row& row);

}  // namespace pillion::relay
