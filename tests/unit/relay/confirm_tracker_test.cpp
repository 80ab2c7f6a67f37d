#include "relay/confirm_tracker.hpp"

#include <doctest/doctest.h>

#include <map>
#include <string>
#include <tuple>

#include "support/scripted_random.hpp"

using pillion::amqp::Confirm;
using pillion::relay::ConfirmTracker;
using pillion::relay::Verdict;
using pillion::test::SeededRandom;

namespace {

using Settled = std::vector<std::pair<Verdict, int>>;

Settled confirm(ConfirmTracker<int>& tracker, std::uint64_t tag, bool multiple, bool positive) {
  Settled settled;
  tracker.confirmed(Confirm{tag, multiple, positive},
                    [&](Verdict verdict, int value) { settled.emplace_back(verdict, value); });
  return settled;
}

/// The same in the plainest terms: what is outstanding, by tag.
class Model {
 public:
  void sent(std::uint64_t tag, int value) { outstanding_[tag] = {value, false}; }

  bool returned(int value) {
    for (auto& [tag, entry] : outstanding_) {
      if (entry.returned || entry.value != value) continue;
      entry.returned = true;
      return true;
    }
    return false;
  }

  Settled confirmed(std::uint64_t tag, bool multiple, bool positive, std::uint64_t highest) {
    Settled settled;
    if (tag > highest) return settled;
    for (auto at = outstanding_.begin(); at != outstanding_.end();) {
      const bool meant = multiple ? at->first <= tag : at->first == tag;
      if (!meant) {
        ++at;
        continue;
      }
      const auto verdict = !positive             ? Verdict::Nacked
                           : at->second.returned ? Verdict::Unroutable
                                                 : Verdict::Routed;
      settled.emplace_back(verdict, at->second.value);
      at = outstanding_.erase(at);
    }
    return settled;
  }

  std::vector<int> takeAll() {
    std::vector<int> values;
    for (const auto& [tag, entry] : outstanding_) values.push_back(entry.value);
    outstanding_.clear();
    return values;
  }

  [[nodiscard]] std::size_t size() const { return outstanding_.size(); }

 private:
  struct Entry {
    int value;
    bool returned;
  };
  std::map<std::uint64_t, Entry> outstanding_;
};

/// One channel after the other, each with its tags from 1 on.
class Walk {
 public:
  explicit Walk(std::uint64_t seed) : random_(seed) {}

  void step() {
    switch (random_.below(16)) {
      case 0:
      case 1:
      case 2:
      case 3:
      case 4:
      case 5:
        send();
        break;
      case 6:
      case 7:
        giveBack();
        break;
      case 8:
        if (random_.oneIn(30)) loseChannel();
        break;
      default:
        settle();
    }
    REQUIRE(tracker_.outstanding() == model_.size());
  }

 private:
  void send() {
    const int value = static_cast<int>(random_.below(20));  // few, so that equal ones meet
    ++tag_;
    tracker_.sent(tag_, value);
    model_.sent(tag_, value);
  }

  void giveBack() {
    const int value = static_cast<int>(random_.below(25));
    const bool found = tracker_.returned([&](int candidate) { return candidate == value; });
    REQUIRE(found == model_.returned(value));
  }

  void settle() {
    // Old tags, tags settled already, present ones, and some that were never sent.
    const std::uint64_t back = random_.below(random_.oneIn(5) ? 200 : 12);
    const std::uint64_t tag = tag_ + 3 > back ? tag_ + 3 - back : 0;
    const bool multiple = random_.oneIn(6);
    const bool positive = !random_.oneIn(4);
    const auto expected = model_.confirmed(tag, multiple, positive, tag_);
    REQUIRE(confirm(tracker_, tag, multiple, positive) == expected);
  }

  void loseChannel() {
    REQUIRE(tracker_.takeAll() == model_.takeAll());
    tag_ = 0;
  }

  SeededRandom random_;
  ConfirmTracker<int> tracker_;
  Model model_;
  std::uint64_t tag_ = 0;
};

}  // namespace

TEST_CASE("single confirms settle their message alone, in any order") {
  ConfirmTracker<int> tracker;
  for (int i = 1; i <= 3; ++i) tracker.sent(static_cast<std::uint64_t>(i), i * 10);
  CHECK(confirm(tracker, 3, false, true) == Settled{{Verdict::Routed, 30}});
  CHECK(confirm(tracker, 1, false, true) == Settled{{Verdict::Routed, 10}});
  CHECK(confirm(tracker, 2, false, false) == Settled{{Verdict::Nacked, 20}});
  CHECK(tracker.outstanding() == 0);
}

TEST_CASE("a multiple confirm settles all that is outstanding up to its tag, the oldest first") {
  ConfirmTracker<int> tracker;
  for (int i = 1; i <= 5; ++i) tracker.sent(static_cast<std::uint64_t>(i), i);
  CHECK(confirm(tracker, 2, false, true).size() == 1);
  CHECK(confirm(tracker, 4, true, true) ==
        Settled{{Verdict::Routed, 1}, {Verdict::Routed, 3}, {Verdict::Routed, 4}});
  CHECK(tracker.outstanding() == 1);
}

TEST_CASE("a returned message is unroutable when it is acked, and refused when it is nacked") {
  ConfirmTracker<int> tracker;
  tracker.sent(1, 7);
  tracker.sent(2, 7);
  CHECK(tracker.returned([](int value) { return value == 7; }));
  CHECK(confirm(tracker, 2, true, true) == Settled{{Verdict::Unroutable, 7}, {Verdict::Routed, 7}});
  tracker.sent(3, 8);
  CHECK(tracker.returned([](int value) { return value == 8; }));
  CHECK(confirm(tracker, 3, false, false) == Settled{{Verdict::Nacked, 8}});
  CHECK_FALSE(tracker.returned([](int) { return true; }));
}

TEST_CASE("tags that were settled already, or never sent, settle nothing") {
  ConfirmTracker<int> tracker;
  CHECK(confirm(tracker, 1, false, true).empty());
  tracker.sent(1, 1);
  CHECK(confirm(tracker, 2, true, true).empty());
  CHECK(confirm(tracker, 0, false, true).empty());
  CHECK(confirm(tracker, 1, false, true).size() == 1);
  CHECK(confirm(tracker, 1, false, true).empty());
  CHECK(confirm(tracker, 1, true, false).empty());
}

TEST_CASE("after a lost channel tags begin with 1 again, and nothing of the old ones is left") {
  ConfirmTracker<std::string> tracker;
  for (std::uint64_t tag = 1; tag <= 4; ++tag) tracker.sent(tag, "old" + std::to_string(tag));
  CHECK(tracker.returned([](const std::string& value) { return value == "old3"; }));
  tracker.confirmed(Confirm{2, false, true}, [](Verdict, const std::string&) {});
  CHECK(tracker.takeAll() == std::vector<std::string>{"old1", "old3", "old4"});
  CHECK(tracker.outstanding() == 0);
  tracker.sent(1, "new");
  std::vector<std::pair<Verdict, std::string>> settled;
  tracker.confirmed(Confirm{1, false, true}, [&](Verdict verdict, std::string value) {
    settled.emplace_back(verdict, std::move(value));
  });
  CHECK(settled == std::vector<std::pair<Verdict, std::string>>{{Verdict::Routed, "new"}});
}

TEST_CASE("the tracker does what the plain model does over 120,000 generated steps") {
  for (std::uint64_t seed = 1; seed <= 12; ++seed) {
    CAPTURE(seed);
    Walk walk(seed);
    for (int i = 0; i < 10'000; ++i) walk.step();
  }
}

TEST_CASE(
    "the oldest is overtaken by what was sent later and confirmed, not by what was given up") {
  ConfirmTracker<int> tracker;
  const auto ignore = [](Verdict, int) {};
  for (int i = 1; i <= 4; ++i) {
    tracker.sent(static_cast<std::uint64_t>(i), i, std::chrono::seconds(i < 3 ? 1 : i));
  }
  CHECK_FALSE(tracker.isOvertaken());
  tracker.confirmed({.tag = 2, .multiple = false, .positive = true}, ignore);  // of the same moment
  CHECK_FALSE(tracker.isOvertaken());
  CHECK(tracker.takeWhere([](int value, auto) { return value == 3; }).size() == 1);
  CHECK_FALSE(tracker.isOvertaken());
  tracker.confirmed({.tag = 4, .multiple = false, .positive = true}, ignore);
  CHECK(tracker.isOvertaken());
}
