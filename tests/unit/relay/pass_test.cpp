#include <doctest/doctest.h>

#include "relay/prober.hpp"
#include "support/engine_bench.hpp"

// What a pass through the parked events leaves alone, and what happens to that meanwhile.

using namespace pillion;
using namespace pillion::test;
using Bench = EngineBench;

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
