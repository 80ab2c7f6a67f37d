#include <doctest/doctest.h>

#include "relay/prober.hpp"
#include "support/engine_bench.hpp"

// What a pass through the parked events leaves alone, and what happens to that meanwhile.

using namespace pillion;
using namespace pillion::test;
using Bench = EngineBench;
using Kind = outbox::ParkedQuestion::Kind;

TEST_CASE("when what an event waited for goes, nothing overtakes that event in the same pass") {
  Bench bench;
  bench.options.probeFirst = 100ms;
  bench.options.windowEvents = 1;
  bench.options.pageEvents = 1;
  bench.log.passRows = 1;
  bench.log.addParked("opens", "", Reason::Unconfirmed);  // its probe goes first
  bench.log.addParked("full", "k", Reason::Nacked, true);
  const auto waits = bench.log.addParked("healthy", "k", Reason::Held, true);
  for (int i = 0; i < 60; ++i) bench.log.addParked("opens");
  const auto behind = bench.log.addParked("healthy", "k", Reason::Held, true);
  bench.broker.answer = [&](const amqp::Message& message) {
    if (message.type == "opens") bench.clock.advance(50ms);
    return Answer::Route;
  };
  bench.start();
  bench.runFor(60s);
  CHECK(bench.log.parked.empty());
  const Ids& routed = bench.broker.routed;
  CHECK(place(routed, "e2") < place(routed, "e" + std::to_string(waits)));
  CHECK(place(routed, "e" + std::to_string(waits)) < place(routed, "e" + std::to_string(behind)));
}

TEST_CASE("what the database says of a key that changed meanwhile does not let the key go") {
  Bench bench;
  bench.options.probeFirst = 100ms;
  bench.options.probeMost = 100ms;
  bench.log.addParked("full");
  bench.log.addParked("lonely", "k", Reason::Unconfirmed, true);
  bench.log.addParked("full", "k", Reason::Held, true);
  bool full = true;
  bench.broker.answer = [&](const amqp::Message& message) {
    if (message.type == "lonely") return Answer::Return;
    return message.type == "full" && full ? Answer::Nack : Answer::Route;
  };
  bench.start();
  bench.runFor(5s);
  REQUIRE(bench.log.reasonAt(2) == Reason::Unroutable);
  bench.log.add("healthy", "k");
  bench.runFor(5s);
  CHECK(bench.broker.routed.empty());
  full = false;
  bench.runFor(10s);
  CHECK(bench.broker.routed == Ids{"e1", "e3", "e4"});
}

TEST_CASE("a parked event that proves a suspect does not end the probing of its type") {
  Bench bench;
  bench.log.addParked("t");
  bench.log.addParked("t");
  bench.deaths[1] = outbox::kDeathsToBlame;
  bench.start();
  bench.learn(outbox::kCrashesToSuspect);
  bench.runFor(60s);
  CHECK(bench.broker.routed == Ids{"e2"});
  REQUIRE(bench.log.parkedAt(1) != nullptr);
  CHECK(bench.log.reasonAt(1) == Reason::Suspect);
}

TEST_CASE("a parked event that proves a suspect still holds its key, in the page that was read") {
  Bench bench;
  bench.log.addParked("opens");
  bench.log.addParked("t", "k", Reason::Held, true);
  bench.log.addParked("t", "k", Reason::Held, true);
  bench.deaths[2] = outbox::kDeathsToBlame;
  bench.start();
  bench.learn(outbox::kCrashesToSuspect);
  bench.runFor(60s);
  CHECK(bench.broker.routed == Ids{"e1"});
  REQUIRE(bench.log.parkedAt(2) != nullptr);
  CHECK(bench.log.reasonAt(2) == Reason::Suspect);
  CHECK(bench.log.parkedAt(3) != nullptr);
}

TEST_CASE("an event that was published, read and parked again does not wait for a later one") {
  Bench bench;
  bench.options.parked = ParkedPolicy::Hold;
  bench.log.add("t", "k");
  bench.log.add("t", "k");
  bench.log.addBad("t", "k");
  bench.start();
  bench.runFor(5s);
  REQUIRE(bench.log.parkedAt(3) != nullptr);
  // That relay ended before it wrote that the others are published.
  bench.log.saved = bench.log.cursorAt(0);
  bench.answer("e1", Answer::Nack);
  bench.start();
  bench.runFor(5s);
  REQUIRE(bench.log.parkedAt(2) != nullptr);
  bench.broker.answer = everybodyHears;
  bench.runFor(60s);
  CHECK(bench.log.parkedAt(1) == nullptr);
  CHECK(bench.log.parkedAt(2) == nullptr);
}

namespace {

/// The cursor, for some of the lanes.
outbox::Cursor inLanes(const Bench& bench, outbox::Lanes lanes) {
  outbox::Cursor cursor = bench.log.saved;
  cursor.positions.front().lanes = lanes;
  return cursor;
}

constexpr outbox::Lanes kLowLanes = 0xffff'ffffU;

}  // namespace

TEST_CASE("lanes that come in the middle of a pass are not read from its middle on") {
  Bench bench;
  bench.options.pageEvents = bench.options.windowEvents = 1;
  bench.log.passRows = 1;
  const auto first = bench.log.addParkedIn(40, "opens", "k", Reason::Unconfirmed, true);
  for (int i = 0; i < 6; ++i) bench.log.addParked("opens");
  const auto behind = bench.log.addParkedIn(40, "healthy", "k", Reason::Held, true);
  bench.start(kLowLanes);
  for (int i = 0; bench.broker.routed.size() < 3; ++i) {
    REQUIRE(i < 10'000);
    bench.engine->turn();
  }
  bool again = false;
  SUBCASE("for the first time") {}
  SUBCASE("once more") {
    again = true;
  }
  bench.engine->addLanes(inLanes(bench, ~kLowLanes));
  if (again) {
    bench.engine->handOver(64);
    for (int i = 0; bench.engine->lanes() != 0; ++i) {
      REQUIRE(i < 10'000);
      bench.engine->turn();
    }
    bench.engine->addLanes(inLanes(bench, outbox::kAllLanes));
  }
  bench.runFor(60s);
  const Ids& routed = bench.broker.routed;
  CHECK(bench.log.parked.empty());
  CHECK(place(routed, "e" + std::to_string(first)) < place(routed, "e" + std::to_string(behind)));
}

TEST_CASE("what another relay parked earlier and wrote later is found when its lanes come") {
  Bench bench;
  const auto late = bench.log.addParkedIn(40, "opens", "", Reason::Unroutable, false);
  auto unwritten = bench.log.parked.extract(bench.log.parked.begin());
  bench.log.addParked("opens");
  bench.log.addParked("opens", "", Reason::Invalid);
  bench.start(kLowLanes);
  bench.runFor(60s);
  REQUIRE(bench.broker.routed == Ids{"e2"});
  bench.log.parked.insert(std::move(unwritten));
  bench.engine->addLanes(inLanes(bench, ~kLowLanes));
  bench.runFor(60s);
  CHECK(bench.broker.routed == Ids{"e2", "e" + std::to_string(late)});
}

TEST_CASE("a type does not count as healthy before the lanes that came meanwhile are read") {
  Bench bench;
  bench.options.pageEvents = bench.options.windowEvents = 1;
  bench.log.passRows = 1;
  for (int i = 0; i < 4; ++i) bench.log.addParkedIn(40, "opens", "", Reason::Unroutable, false);
  for (int i = 0; i < 4; ++i) bench.log.addParked("opens");
  bench.start(kLowLanes);
  for (int i = 0; bench.broker.routed.size() < 2; ++i) {
    REQUIRE(i < 10'000);
    bench.engine->turn();
  }
  bench.engine->addLanes(inLanes(bench, ~kLowLanes));
  bench.runFor(60s);
  CHECK(bench.log.parked.empty());
}

TEST_CASE("what a key waited for and is gone keeps no probe from its work") {
  Bench bench;
  bench.options.probeFirst = bench.options.probeMost = 100ms;
  bench.log.addParked("a", "k", Reason::Nacked, true);
  bench.log.addParked("b", "k", Reason::Held, true);
  bench.log.addParked("b", "", Reason::Nacked);
  bench.log.addParked("a", "", Reason::Nacked);
  bool full = true;
  bench.broker.answer = [&](const amqp::Message& message) {
    return message.type == "a" || full ? Answer::Nack : Answer::Route;
  };
  bench.start();
  bench.runFor(5s);
  bench.log.discard([](const auto& entry) { return entry.row.id == 1; });  // by an operator
  bench.runFor(5s);
  full = false;
  bench.runFor(60s);
  CHECK(bench.log.parkedAt(2) == nullptr);
  CHECK(bench.log.parkedAt(3) == nullptr);
}

TEST_CASE("an event that is refused while others are looked for is tried again like any other") {
  Bench bench;
  bench.options.refusedFirst = 1s;
  bench.log.addParked("t", "", Reason::Refused);
  bool late = true;
  bench.log.slow = [&] { return late && bench.log.questions[Kind::Refused] >= 3; };
  bool closes = true;
  bench.broker.answer = [&](const amqp::Message& message) {
    return message.type == "huge" && std::exchange(closes, false) ? Answer::Close : Answer::Route;
  };
  bench.start();
  for (int i = 0; bench.log.questions[Kind::Refused] < 3; ++i) {
    REQUIRE(i < 10'000);
    bench.engine->turn();
  }
  bench.log.add("huge");
  bench.runFor(5s);
  REQUIRE(bench.log.parkedAt(2) != nullptr);
  late = false;
  bench.runFor(10min);
  CHECK(bench.log.parkedAt(2) == nullptr);
}

TEST_CASE("an answer that is older than the lanes does not say where their parked events begin") {
  Bench bench;
  bench.log.addParkedIn(40, "opens", "", Reason::Unroutable, false);
  auto unwritten = bench.log.parked.extract(bench.log.parked.begin());
  bench.log.addParked("opens");
  bench.log.addParked("opens", "", Reason::Invalid);
  bool late = true;
  bench.log.slow = [&] { return late && bench.log.questions[Kind::Pass] > 0; };
  bench.start(kLowLanes);
  for (int i = 0; bench.log.questions[Kind::Pass] == 0; ++i) {
    REQUIRE(i < 10'000);
    bench.engine->turn();
  }
  bench.log.parked.insert(std::move(unwritten));
  bench.engine->addLanes(inLanes(bench, ~kLowLanes));
  late = false;
  bench.runFor(60s);
  CHECK(bench.broker.routed == Ids{"e2", "e1"});
}
