#include "relay/suspicion.hpp"

#include <doctest/doctest.h>

#include "support/fake_event_log.hpp"
#include "support/manual_clock.hpp"

using namespace pillion;
using pillion::relay::Suspicion;
using namespace std::chrono_literals;
using pillion::test::FakeEventLog;
using pillion::test::ManualClock;

namespace {

outbox::Balance after(int crashes, std::set<std::int64_t> suspects = {}) {
  outbox::Balance balance;
  balance.taken = FakeEventLog::cursorAt(5);
  balance.crashes = crashes;
  if (crashes >= outbox::kCrashesToSuspect) balance.endangered = outbox::kAllLanes;
  balance.suspects = std::move(suspects);
  return balance;
}

struct Watched {
  FakeEventLog log;
  ManualClock clock;
  Suspicion suspicion{log, 3, clock};
};

}  // namespace

TEST_CASE("without an alert nothing is noted, and many events may be handled at a time") {
  Watched watched;
  auto& suspicion = watched.suspicion;
  suspicion.learn(after(2));
  CHECK_FALSE(suspicion.alert());
  suspicion.handle(1);
  CHECK(!watched.log.inHand);
  CHECK(suspicion.mayHandle(2));
  CHECK(suspicion.handsFree());
}

TEST_CASE(
    "in an alert each event is noted before it is handled, and is the only one until settled") {
  Watched watched;
  auto& [log, clock, suspicion] = watched;
  suspicion.learn(after(3));
  CHECK(suspicion.alert());
  suspicion.handle(6);
  CHECK(log.inHand == 6);
  suspicion.handle(7);
  CHECK(log.inHand == 6);
  CHECK(suspicion.mayHandle(6));
  CHECK_FALSE(suspicion.mayHandle(7));
  CHECK_FALSE(suspicion.handsFree());
  suspicion.settled(5);  // one that was in flight before
  CHECK(log.inHand == 6);
  suspicion.settled(6);
  CHECK(!log.inHand);
  CHECK(suspicion.mayHandle(7));
}

TEST_CASE(
    "an event that was handled to its end is acquitted, and the first one is written at once") {
  Watched watched;
  auto& [log, clock, suspicion] = watched;
  suspicion.learn(after(3));
  suspicion.handle(6);
  CHECK_FALSE(suspicion.mustWrite());
  suspicion.settled(6);
  CHECK(log.acquitted == std::set<std::int64_t>{6});
  CHECK(suspicion.mustWrite());
  suspicion.written();
  suspicion.handle(7);
  suspicion.settled(7);
  CHECK_FALSE(suspicion.mustWrite());
}

TEST_CASE("an event that waits for others, or for the broker, is not noted meanwhile") {
  Watched watched;
  auto& [log, clock, suspicion] = watched;
  suspicion.learn(after(3));
  suspicion.handle(6);
  suspicion.putDown(6);
  CHECK(!log.inHand);
  CHECK(suspicion.handsFree());
  suspicion.handle(7);
  clock.advance(999ms);
  suspicion.putDownOld();
  CHECK(log.inHand == 7);
  clock.advance(1ms);
  suspicion.putDownOld();
  CHECK(!log.inHand);
  CHECK_FALSE(suspicion.mayHandle(8));  // it is still the only one that is sent
  suspicion.handle(7);                  // once more, on another connection
  CHECK(log.inHand == 7);
  suspicion.settled(7);
  CHECK(suspicion.mayHandle(8));
  CHECK(log.acquitted == std::set<std::int64_t>{7});
}

TEST_CASE("an alert lasts until its relay is past what the others may have had in memory") {
  Watched danger;
  danger.suspicion.learn(after(3));
  for (int id = 6; id < 9; ++id) {
    CHECK(danger.suspicion.alert());
    danger.suspicion.settled(1);  // in flight since before: not counted
    danger.suspicion.handle(id);
    danger.suspicion.settled(id);
  }
  CHECK_FALSE(danger.suspicion.alert());

  Watched end;
  end.suspicion.learn(after(3));
  end.suspicion.handle(6);
  end.suspicion.caughtUp();
  CHECK(end.suspicion.alert());  // that one is not settled
  end.suspicion.settled(6);
  end.suspicion.caughtUp();
  CHECK_FALSE(end.suspicion.alert());

  Watched gives;
  gives.suspicion.learn(after(3));
  gives.suspicion.dropLanes(outbox::kAllLanes & ~outbox::laneBit(0));
  CHECK(gives.suspicion.alert());
  gives.suspicion.dropLanes(outbox::laneBit(0));
  CHECK_FALSE(gives.suspicion.alert());
}

TEST_CASE("events over which relays have ended are suspects") {
  Watched watched;
  watched.suspicion.learn(after(4, {7}));
  CHECK(watched.suspicion.isSuspect(7));
  CHECK_FALSE(watched.suspicion.isSuspect(6));
}
