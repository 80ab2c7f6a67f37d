#include "relay/parking.hpp"

#include <doctest/doctest.h>

#include <map>

#include "support/manual_clock.hpp"

using namespace std::chrono_literals;
using namespace pillion;
using namespace pillion::relay;
using outbox::Reason;
using pillion::test::ManualClock;
using Before = Parking::Before;

namespace {

RelayOptions policy(ParkedPolicy parked, std::vector<std::string> holdTypes = {}) {
  RelayOptions options;
  options.parked = parked;
  options.holdTypes = std::move(holdTypes);
  return options;
}

/// Parking with a clock that stands still.
struct Case {
  explicit Case(RelayOptions given = policy(ParkedPolicy::Continue)) : options(std::move(given)) {}

  RelayOptions options;
  ManualClock clock;
  Parking parking{options, clock};
};

/// Of lane 3; an empty key is none.
ItemPtr item(std::int64_t id, const std::string& type, const std::string& key = "") {
  auto made = std::make_unique<Item>();
  made->id = id;
  made->lane = 3;
  made->hasKey = !key.empty();
  made->message.type = type;
  made->message.attributes.emplace();
  made->message.attributes->key = key;
  return made;
}

/// One that was parked, and is on the second road.
ItemPtr parkedItem(std::int64_t seq, const std::string& type, const std::string& key, Reason reason,
                   bool holds) {
  auto made = item(seq, type, key);
  made->parked = ParkedPlace{.seq = seq, .reason = reason, .holds = holds};
  return made;
}

ParkedAs asParked(std::int64_t id, std::string_view type, std::string_view key = "") {
  return {.id = id, .lane = 3, .type = type, .key = key};
}

}  // namespace

TEST_CASE("an event of which nothing bad is known is sent") {
  const Case c;
  CHECK(c.parking.before(*item(1, "t", "k")) == Before::Send);
  CHECK(c.parking.changes().empty());
}

TEST_CASE("after an unroutable event its type is parked unsent, and its key goes on by default") {
  Case c;
  c.parking.park(asParked(1, "t", "k"), Reason::Unroutable, 1);
  CHECK(c.parking.before(*item(2, "t", "other")) == Before::Park);
  CHECK(c.parking.before(*item(3, "u", "k")) == Before::Send);
  REQUIRE(c.parking.changes().park.size() == 1);
  CHECK(c.parking.changes().park[0].reason == Reason::Unroutable);
  CHECK_FALSE(c.parking.changes().park[0].holds);
}

TEST_CASE("a nack or a missing confirm holds the key whatever the policy is, and no other key") {
  for (const Reason reason : {Reason::Nacked, Reason::Unconfirmed}) {
    Case c;
    c.parking.park(asParked(5, "t", "k"), reason, 1);
    CHECK(c.parking.before(*item(6, "u", "k")) == Before::Park);
    CHECK(c.parking.before(*item(7, "u", "l")) == Before::Send);
    CHECK(c.parking.before(*item(8, "u")) == Before::Send);
    CHECK(c.parking.before(*item(4, "u", "k")) == Before::Send);  // it was before the parked one
  }
}

TEST_CASE("the policy, or the type's own, holds the key for the other reasons, too") {
  for (const auto& options :
       {policy(ParkedPolicy::Hold), policy(ParkedPolicy::Continue, {"t.#"})}) {
    for (const Reason reason :
         {Reason::Unroutable, Reason::Forbidden, Reason::Refused, Reason::Invalid}) {
      Case c(options);
      c.parking.park(asParked(5, "t.x", "k"), reason, 1);
      CHECK(c.parking.before(*item(6, "u", "k")) == Before::Park);
    }
  }
}

TEST_CASE("what waits for its key is parked as held, and holds those behind it") {
  Case c;
  c.parking.park(asParked(5, "t", "k"), Reason::Nacked, 1);
  c.parking.parkUnsent(*item(6, "u", "k"));
  const auto& parked = c.parking.changes().park;
  REQUIRE(parked.size() == 2);
  CHECK(parked[1].reason == Reason::Held);
  CHECK(parked[1].holds);
  CHECK(parked[1].attempts == 0);
  c.parking.settled(*parkedItem(5, "t", "k", Reason::Nacked, true));
  CHECK(c.parking.before(*item(7, "u", "k")) == Before::Park);
  c.parking.settled(*parkedItem(6, "u", "k", Reason::Held, true));
  CHECK(c.parking.before(*item(7, "u", "k")) == Before::Send);
}

TEST_CASE("an invalid or a suspect event makes no type sick") {
  for (const Reason reason : {Reason::Invalid, Reason::Suspect, Reason::Refused}) {
    Case c;
    c.parking.park(asParked(5, "t"), reason, 0);
    CHECK(c.parking.types().empty());
    CHECK(c.parking.before(*item(6, "t")) == Before::Send);
    CHECK(c.parking.anyRefused() == (reason == Reason::Refused));
  }
}

TEST_CASE("an attempt that fails for a milder reason lets the key go, one for a harder holds it") {
  Case c;
  c.parking.park(asParked(5, "t", "k"), Reason::Nacked, 1);
  c.parking.retried(*parkedItem(5, "t", "k", Reason::Nacked, true), Reason::Unroutable);
  CHECK_FALSE(c.parking.holds("k"));
  c.parking.retried(*parkedItem(5, "t", "k", Reason::Unroutable, false), Reason::Nacked);
  CHECK(c.parking.holds("k"));
  REQUIRE(c.parking.changes().retried.size() == 2);
  CHECK_FALSE(c.parking.changes().retried[0].holds);
  CHECK(c.parking.changes().retried[1].holds);
}

TEST_CASE("near the end of a pass the main road keeps what would be parked behind it") {
  Case c;
  c.parking.park(asParked(5, "t", "k"), Reason::Nacked, 1);
  c.parking.follow(true);
  CHECK(c.parking.before(*item(6, "u", "k")) == Before::Wait);
  CHECK(c.parking.before(*item(7, "t", "l")) == Before::Park);  // its type is still sick
  c.parking.types().open("t");
  CHECK(c.parking.before(*item(7, "t", "l")) == Before::Wait);
  c.parking.follow(false);
  CHECK(c.parking.before(*item(7, "t", "l")) == Before::Park);
}

TEST_CASE("a type that has recovered is sent again") {
  Case c;
  c.parking.park(asParked(5, "t"), Reason::Unroutable, 1);
  c.parking.recovered("t");
  CHECK(c.parking.before(*item(6, "t")) == Before::Send);
}

TEST_CASE("what a relay before this one had parked is known with its lanes, and goes with them") {
  Case c;
  c.parking.addLanes({.types = {{"t", Reason::Unroutable}},
                      .keys = {{.key = "k", .lane = 3, .firstId = 5, .events = 2}},
                      .anyRefused = true,
                      .ahead = {9, 7}});
  CHECK(c.parking.before(*item(6, "t")) == Before::Park);
  CHECK(c.parking.before(*item(6, "u", "k")) == Before::Park);
  CHECK(c.parking.before(*item(7, "u", "l")) == Before::Settled);
  CHECK(c.parking.before(*item(9, "u", "l")) == Before::Settled);
  CHECK(c.parking.anyRefused());
  c.parking.dropLanes(outbox::laneBit(4));
  CHECK(c.parking.holds("k"));
  c.parking.dropLanes(outbox::laneBit(3));
  CHECK_FALSE(c.parking.holds("k"));
}

TEST_CASE("what the database said of a held key is old as soon as anything changes there") {
  Case c;
  c.parking.park(asParked(5, "t", "k"), Reason::Nacked, 1);
  const auto asked = c.parking.serial();
  CHECK(c.parking.heldSince("k", asked));
  CHECK_FALSE(c.parking.heldSince("other", asked));
  SUBCASE("held once more") {
    c.parking.park(asParked(6, "t", "k"), Reason::Nacked, 1);
    CHECK_FALSE(c.parking.heldSince("k", asked));
  }
  SUBCASE("tried, and it holds it still") {
    c.parking.retried(*parkedItem(5, "t", "k", Reason::Nacked, true), Reason::Unconfirmed);
    CHECK_FALSE(c.parking.heldSince("k", asked));
  }
  SUBCASE("one of two is gone") {
    c.parking.park(asParked(6, "t", "k"), Reason::Nacked, 1);
    const auto later = c.parking.serial();
    c.parking.settled(*parkedItem(5, "t", "k", Reason::Nacked, true));
    CHECK_FALSE(c.parking.heldSince("k", later));
    CHECK(c.parking.heldSince("k", c.parking.serial()));
  }
  SUBCASE("nothing changed") {
    c.parking.park(asParked(6, "t", "other"), Reason::Nacked, 1);
    CHECK(c.parking.heldSince("k", asked));
    c.parking.release("k");
    CHECK_FALSE(c.parking.holds("k"));
  }
}

TEST_CASE(
    "the first of a held key waits for its type's reason, or can be sent when there is none") {
  Case c;
  c.parking.addLanes({.types = {},
                      .keys = {{.key = "k", .lane = 3, .firstId = 5, .events = 1}},
                      .anyRefused = false,
                      .ahead = {}});
  CHECK(c.parking.isHead("k", {.seq = 1, .reason = Reason::Held, .type = "t"}));
  c.parking.park(asParked(9, "t"), Reason::Unroutable, 1);
  // With this policy an unroutable one holds no key.
  CHECK(c.parking.isHead("k", {.seq = 1, .reason = Reason::Held, .type = "t"}));
  CHECK_FALSE(c.parking.holds("k"));
  CHECK_FALSE(c.parking.isHead("k", {.seq = 1, .reason = Reason::Unroutable, .type = "t"}));
}

TEST_CASE("the held keys are looked after in turns, each as often as the others") {
  Case c;
  for (const char* key : {"a", "b", "c", "d", "e"}) {
    c.parking.park(asParked(5, "t", key), Reason::Nacked, 1);
  }
  std::map<std::string, int> looked;
  for (int i = 0; i < 5; ++i) {
    for (const auto& key : c.parking.someHeldKeys(2)) ++looked[key];
  }
  CHECK(looked.size() == 5);
  for (const auto& [key, times] : looked) CHECK(times == 2);
  CHECK(c.parking.someHeldKeys(10).size() == 5);
}

TEST_CASE("changes are taken once, and reading waits for those that would make it untrue") {
  Case c;
  CHECK_FALSE(c.parking.mustBeWritten());
  c.parking.retried(*parkedItem(5, "t", "", Reason::Nacked, false), Reason::Unroutable);
  CHECK_FALSE(c.parking.mustBeWritten());  // a reason of its type, as before
  c.parking.retried(*parkedItem(5, "t", "", Reason::Refused, false), Reason::Nacked);
  CHECK(c.parking.mustBeWritten());
  CHECK(c.parking.takeChanges().retried.size() == 2);
  CHECK(c.parking.changes().empty());
  CHECK_FALSE(c.parking.mustBeWritten());
}

TEST_CASE("a channel that is closed over one message says whether it is forbidden or refused") {
  const auto closedWith = [](int code) {
    amqp::ChannelClosed closed;
    closed.replyCode = code;
    return closed;
  };
  CHECK(reasonOf(closedWith(403)) == Reason::Forbidden);
  CHECK(reasonOf(closedWith(406)) == Reason::Refused);
  CHECK(reasonOf(closedWith(311)) == Reason::Refused);
}
