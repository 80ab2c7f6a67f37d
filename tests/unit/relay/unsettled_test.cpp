#include "relay/unsettled.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <set>

#include "support/scripted_random.hpp"

using pillion::outbox::Cursor;
using pillion::outbox::Position;
using pillion::relay::Item;
using pillion::relay::ItemPtr;
using pillion::relay::Unsettled;
using pillion::test::SeededRandom;

namespace {

Cursor cursorAt(std::int64_t position) {
  Position place;
  place.done.text = std::to_string(position);
  place.lastId = position;
  return {{place}};
}

std::int64_t placeOf(const Cursor& cursor) {
  return cursor.positions.front().lastId;
}

/// `key` 0 is none.
ItemPtr item(std::int64_t id, std::uint64_t key = 0, std::size_t bytes = 1) {
  auto made = std::make_unique<Item>();
  made->id = id;
  made->key = key;
  made->hasKey = key != 0;
  made->bytes = bytes;
  return made;
}

template <typename... Items>
std::vector<ItemPtr> listOf(Items... each) {
  std::vector<ItemPtr> list;
  (list.push_back(std::move(each)), ...);
  return list;
}

/// Walks what is unsettled at random and holds it to what its header promises, kept here in plain
/// lists.
class Walk {
 public:
  explicit Walk(std::uint64_t seed) : random_(seed) {}

  void step() {
    const std::size_t what = random_.below(20);
    if (what < 3) {
      addPage();
    } else if (what == 3) {
      addParked();
    } else if (what < 12) {
      takeIfReady();
    } else if (what < 19) {
      settleOne();
    } else {
      putSomeBack();
    }
    compare();
  }

  void drain() {
    for (int i = 0; !unsettled_.empty(); ++i) {
      REQUIRE(i < 100'000);
      takeIfReady();
      settleOne();
      compare();
    }
    CHECK(placeOf(real_.settledUpTo()) == position_);
  }

 private:
  struct Entry {
    std::int64_t id;
    std::uint64_t key;
    std::size_t bytes;
  };
  struct Page {
    std::int64_t after;
    std::set<std::int64_t> open;
    bool hadEvents;
  };

  ItemPtr newItem() {
    ItemPtr made = item(++lastId_, random_.below(5), random_.below(10));
    unsettled_.push_back({made->id, made->key, made->bytes});
    return made;
  }

  void addPage() {
    Page page;
    std::vector<ItemPtr> list;
    for (std::size_t i = random_.below(5); i > 0; --i) {
      list.push_back(newItem());
      page.open.insert(lastId_);
    }
    page.after = ++position_;
    const std::size_t passed = random_.oneIn(4) ? 1 + random_.below(3) : 0;
    page.hadEvents = !list.empty() || passed > 0;
    pages_.push_back(page);
    real_.addPage(cursorAt(position_), std::move(list), passed);
    completePages();
  }

  void addParked() { real_.addParked(newItem()); }

  /// May this one be handed out? Then no earlier one of its key is unsettled.
  [[nodiscard]] bool mayGo(const Entry& entry) const {
    if (out_.contains(entry.id)) return false;
    if (entry.key == 0) return true;
    const auto first = std::ranges::find(unsettled_, entry.key, &Entry::key);
    return first->id == entry.id;
  }

  void takeIfReady() {
    if (!real_.hasReady()) return;
    const std::int64_t announced = real_.ready().id;
    ItemPtr taken = real_.take();
    REQUIRE(taken->id == announced);
    const auto entry = std::ranges::find(unsettled_, taken->id, &Entry::id);
    REQUIRE(entry != unsettled_.end());  // else it was settled before
    REQUIRE(mayGo(*entry));              // else it was handed out twice, or out of order
    if (!putBack_.empty()) {
      REQUIRE(taken->id == putBack_.front());
      putBack_.erase(putBack_.begin());
    }
    out_.emplace(taken->id, std::move(taken));
  }

  void settleOne() {
    if (out_.empty()) return;
    auto chosen = std::next(out_.begin(), static_cast<std::ptrdiff_t>(random_.below(out_.size())));
    ItemPtr settled = std::move(chosen->second);
    out_.erase(chosen);
    std::erase_if(unsettled_, [&](const Entry& entry) { return entry.id == settled->id; });
    for (Page& page : pages_) page.open.erase(settled->id);
    real_.settle(std::move(settled));
    completePages();
  }

  void putSomeBack() {
    std::vector<ItemPtr> list;
    std::vector<std::int64_t> ids;
    for (auto at = out_.begin(); at != out_.end();) {
      if (random_.oneIn(2)) {
        ++at;
        continue;
      }
      ids.push_back(at->first);
      list.push_back(std::move(at->second));
      at = out_.erase(at);
    }
    putBack_.insert(putBack_.begin(), ids.begin(), ids.end());
    real_.putBack(std::move(list));
  }

  void completePages() {
    while (!pages_.empty() && pages_.front().open.empty()) {
      confirmed_ = pages_.front().after;
      moved_ = moved_ || pages_.front().hadEvents;
      pages_.erase(pages_.begin());
    }
  }

  void compare() {
    REQUIRE(placeOf(real_.settledUpTo()) == confirmed_);
    REQUIRE(placeOf(real_.fetched()) == position_);
    REQUIRE((real_.moved() == Unsettled::Moved::PastEvents) == moved_);
    REQUIRE(real_.events() == unsettled_.size());
    std::size_t bytes = 0;
    bool anyReady = false;
    std::set<std::uint64_t> earlier;
    for (const Entry& entry : unsettled_) {
      bytes += entry.bytes;
      const bool first = entry.key == 0 || earlier.insert(entry.key).second;
      anyReady = anyReady || (first && !out_.contains(entry.id));
    }
    REQUIRE(real_.bytes() == bytes);
    REQUIRE(real_.hasReady() == anyReady);
    if (moved_ && random_.oneIn(4)) {
      real_.written();
      moved_ = false;
    }
  }

  SeededRandom random_;
  Unsettled real_{cursorAt(0)};
  std::vector<Entry> unsettled_;  // in the order in which they entered
  std::map<std::int64_t, ItemPtr> out_;
  std::vector<std::int64_t> putBack_;
  std::vector<Page> pages_;
  std::int64_t lastId_ = 0;
  std::int64_t position_ = 0;
  std::int64_t confirmed_ = 0;
  bool moved_ = false;
};

}  // namespace

TEST_CASE("events without a key are handed out in their order, all at once") {
  Unsettled road(cursorAt(0));
  road.addPage(cursorAt(1), listOf(item(1), item(2), item(3)));
  for (std::int64_t id = 1; id <= 3; ++id) CHECK(road.take()->id == id);
  CHECK_FALSE(road.hasReady());
  CHECK(road.events() == 3);
}

TEST_CASE("the next event of a key is handed out when the one before it is settled") {
  Unsettled road(cursorAt(0));
  road.addPage(cursorAt(1), listOf(item(1, 7), item(2, 7), item(3, 8)));
  ItemPtr first = road.take();
  CHECK(first->id == 1);
  CHECK(road.take()->id == 3);
  CHECK_FALSE(road.hasReady());
  road.settle(std::move(first));
  REQUIRE(road.hasReady());
  CHECK(road.take()->id == 2);
}

TEST_CASE("an event that is put back still holds up the next of its key") {
  Unsettled road(cursorAt(0));
  road.addPage(cursorAt(1), listOf(item(1, 7), item(2, 7)));
  road.putBack(listOf(road.take()));
  CHECK(road.take()->id == 1);
  CHECK_FALSE(road.hasReady());
}

TEST_CASE("events that are put back go out again before all others and in their order") {
  Unsettled road(cursorAt(0));
  road.addPage(cursorAt(1), listOf(item(1), item(2), item(3)));
  auto one = road.take();
  auto two = road.take();
  road.putBack(listOf(std::move(one), std::move(two)));
  for (std::int64_t id = 1; id <= 3; ++id) CHECK(road.take()->id == id);
}

TEST_CASE("the confirmed cursor waits for every event of a page, and of the pages before it") {
  Unsettled road(cursorAt(0));
  road.addPage(cursorAt(10), listOf(item(1), item(2)));
  road.addPage(cursorAt(20), listOf(item(3)));
  CHECK(placeOf(road.fetched()) == 20);
  auto one = road.take();
  auto two = road.take();
  road.settle(road.take());
  CHECK(placeOf(road.settledUpTo()) == 0);
  road.settle(std::move(two));
  CHECK(placeOf(road.settledUpTo()) == 0);
  CHECK(road.moved() != Unsettled::Moved::PastEvents);
  road.settle(std::move(one));
  CHECK(placeOf(road.settledUpTo()) == 20);
  CHECK(road.moved() == Unsettled::Moved::PastEvents);
  road.written();
  CHECK(road.moved() != Unsettled::Moved::PastEvents);
}

TEST_CASE("an empty page moves the cursor, but is nothing to be written for") {
  Unsettled road(cursorAt(0));
  road.addPage(cursorAt(5), {});
  CHECK(placeOf(road.settledUpTo()) == 5);
  CHECK(road.moved() != Unsettled::Moved::PastEvents);
}

TEST_CASE("a page whose every row was parked unsent moves the cursor, which is to be written") {
  Unsettled road(cursorAt(0));
  road.addPage(cursorAt(5), {}, 2);
  CHECK(placeOf(road.settledUpTo()) == 5);
  CHECK(road.moved() == Unsettled::Moved::PastEvents);
  road.written();
  road.addPage(cursorAt(6), listOf(item(1)));
  road.addPage(cursorAt(7), {}, 1);
  CHECK(road.moved() != Unsettled::Moved::PastEvents);
  road.settle(road.take());
  CHECK(placeOf(road.settledUpTo()) == 7);
  CHECK(road.moved() == Unsettled::Moved::PastEvents);
}

TEST_CASE("an empty page behind an unsettled one is confirmed with it, not before it") {
  Unsettled road(cursorAt(0));
  road.addPage(cursorAt(5), listOf(item(1)));
  road.addPage(cursorAt(6), {});
  CHECK(placeOf(road.fetched()) == 6);
  CHECK(placeOf(road.settledUpTo()) == 0);
  road.settle(road.take());
  CHECK(placeOf(road.settledUpTo()) == 6);
}

TEST_CASE("a parked event has no page: it holds up its key, and no cursor") {
  Unsettled road(cursorAt(0));
  road.addParked(item(1, 7));
  road.addPage(cursorAt(5), listOf(item(9, 7), item(10)));
  auto parked = road.take();
  CHECK(parked->page == nullptr);
  auto free = road.take();
  CHECK(free->id == 10);
  CHECK_FALSE(road.hasReady());
  road.settle(std::move(parked));
  CHECK(placeOf(road.settledUpTo()) == 0);
  road.settle(std::move(free));
  road.settle(road.take());
  CHECK(placeOf(road.settledUpTo()) == 5);
}

TEST_CASE("bytes count from their entering until they are settled") {
  Unsettled road(cursorAt(0));
  road.addPage(cursorAt(5), listOf(item(1, 0, 100), item(2, 0, 10)));
  CHECK(road.bytes() == 110);
  auto one = road.take();
  CHECK(road.bytes() == 110);
  road.settle(std::move(one));
  CHECK(road.bytes() == 10);
}

TEST_CASE("a stored row becomes an item of its id, key and size, or the reason why it cannot") {
  pillion::Row row;
  row.id = 7;
  row.key = "k";
  row.type = "t";
  row.source = "s";
  row.contentType = "text/plain";
  row.payload = "12345";
  pillion::Row good = row;
  const auto made = pillion::relay::itemFrom(good);
  REQUIRE(std::holds_alternative<ItemPtr>(made));
  CHECK(std::get<ItemPtr>(made)->id == 7);
  CHECK(std::get<ItemPtr>(made)->hasKey);
  CHECK(std::get<ItemPtr>(made)->bytes == 5);
  CHECK_FALSE(std::get<ItemPtr>(made)->parked);
  row.headers = "[]";
  CHECK(std::holds_alternative<pillion::amqp::Problem>(pillion::relay::itemFrom(row)));
  CHECK(row.payload == "12345");
  CHECK(row.type == "t");
}

TEST_CASE("what is unsettled keeps its promises over 30,000 generated steps") {
  for (std::uint64_t seed = 1; seed <= 15; ++seed) {
    CAPTURE(seed);
    Walk walk(seed);
    for (int i = 0; i < 2'000; ++i) walk.step();
    walk.drain();
  }
}

namespace {

ItemPtr laneItem(std::int64_t id, int lane) {
  ItemPtr made = item(id);
  made->lane = lane;
  return made;
}

Cursor cursorOf(pillion::outbox::Lanes lanes, std::int64_t place) {
  Cursor cursor = cursorAt(place);
  cursor.positions.front().lanes = lanes;
  return cursor;
}

}  // namespace

TEST_CASE("lanes that join later are in every cursor that is confirmed from then on") {
  Unsettled road(cursorOf(0b0011, 0));
  road.addPage(cursorOf(0b0011, 10), listOf(laneItem(1, 0)));
  road.addLanes(cursorOf(0b1100, 4));
  CHECK(road.fetched().lanes() == 0b1111);
  road.settle(road.take());
  REQUIRE(road.settledUpTo().lanes() == 0b1111);
  CHECK(road.settledUpTo().positions.size() == 2);
}

TEST_CASE("only lanes without an unsettled event are idle, and they leave where all is settled") {
  Unsettled road(cursorOf(0b0111, 0));
  road.addPage(cursorOf(0b0111, 10), listOf(laneItem(1, 0), laneItem(2, 1)));
  road.addPage(cursorOf(0b0111, 20), listOf(laneItem(3, 2)));
  CHECK(road.busyLanes() == 0b0111);
  ItemPtr stuck = road.take();
  road.settle(road.take());
  road.settle(road.take());
  CHECK(road.busyLanes() == 0b0001);
  const Cursor left = road.takeLanes(0b0110);
  CHECK(placeOf(left) == 20);
  CHECK(left.lanes() == 0b0110);
  CHECK(road.fetched().lanes() == 0b0001);
  CHECK(road.settledUpTo().lanes() == 0b0001);
  CHECK(placeOf(road.settledUpTo()) == 0);  // its own event is not settled
  road.settle(std::move(stuck));
  CHECK(placeOf(road.settledUpTo()) == 20);
  CHECK(road.settledUpTo().lanes() == 0b0001);
}

TEST_CASE("a lane with very much unsettled is clogged until it has drained, and the others flow") {
  Unsettled road(cursorOf(0b11, 0));
  std::vector<ItemPtr> page;
  for (std::int64_t id = 1; id <= 200; ++id) {
    page.push_back(laneItem(id, 0));
    page.back()->hasKey = true;
    page.back()->key = 7;
  }
  page.push_back(laneItem(201, 1));
  road.addPage(cursorOf(0b11, 10), std::move(page));
  CHECK(road.clogged() == 0b01);
  CHECK(road.events() == 201);
  CHECK(road.flowingEvents() == 1);
  road.addPage(cursorOf(0b10, 20), listOf(laneItem(202, 1)));
  REQUIRE(road.fetched().positions.size() == 2);  // the clogged one stays where it was
  CHECK(road.flowingEvents() == 2);
  while (road.events() > 16) road.settle(road.take());
  CHECK(road.clogged() == 0);
  CHECK(road.flowingEvents() == 16);
}
