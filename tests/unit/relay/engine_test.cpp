#include "relay/engine.hpp"

#include <doctest/doctest.h>

#include "support/engine_bench.hpp"

using namespace pillion;
using namespace pillion::test;
using Bench = EngineBench;

TEST_CASE("events are published in their order, and one checkpoint moves the cursor past them") {
  Bench bench;
  for (int i = 0; i < 5; ++i) bench.log.add("t", "k" + std::to_string(i));
  bench.start();
  bench.untilCheckpoints(1);
  CHECK(bench.broker.routed == Ids{"e1", "e2", "e3", "e4", "e5"});
  const auto& checkpoint = bench.log.checkpoints.front();
  CHECK(checkpoint.cursorMoved);
  CHECK(placeOf(checkpoint.cursor) == 5);
  CHECK(checkpoint.parked.park.empty());
  CHECK(bench.counters.published == 5);
  CHECK(bench.counters.pages == 1);
  CHECK(bench.counters.checkpoints == 1);
}

TEST_CASE("the cursor never moves past an event that is not confirmed") {
  Bench bench;
  bench.log.pageRows = 1;
  for (int i = 0; i < 3; ++i) bench.log.add("t");
  bench.answer("e2", Answer::Silence);
  bench.start();
  bench.runFor(10s);
  CHECK(bench.broker.routed == Ids{"e1", "e3"});
  CHECK(placeOf(bench.log.saved) == 1);
  CHECK(placeOf(bench.log.checkpoints.back().cursor) == 1);
}

TEST_CASE("what was unconfirmed when the channel was lost is sent again first, in its order") {
  Bench bench;
  for (int i = 0; i < 4; ++i) bench.log.add("t");
  bench.answer("e1", Answer::Route);
  bench.start();
  bench.turns(3);
  REQUIRE(bench.counters.published == 4);
  for (int i = 0; i < 3; ++i) bench.log.add("t", "k" + std::to_string(i));
  bench.broker.answer = [](const amqp::Message&) { return Answer::Silence; };
  bench.runFor(100ms);
  CHECK(bench.broker.sent.size() == 7);
  bench.log.add("t");
  bench.broker.answer = [](const amqp::Message&) { return Answer::Route; };
  bench.reconnect();
  bench.runFor(2s);
  CHECK(bench.broker.routed == Ids{"e1", "e2", "e3", "e4", "e5", "e6", "e7", "e8"});
  CHECK(bench.counters.repeated == 3);
  CHECK(placeOf(bench.log.saved) == 8);
}

TEST_CASE("a channel that is lost while publishing loses and doubles nothing") {
  Bench bench;
  for (int i = 0; i < 6; ++i) bench.log.add("t");
  bench.broker.answer = [&, losses = 1](const amqp::Message& message) mutable {
    if (message.messageId == "e3" && losses-- > 0) bench.channel->lose();
    return Answer::Route;
  };
  bench.start();
  bench.runThroughLosses(2s);
  CHECK(placeOf(bench.log.saved) == 6);
  CHECK(bench.log.parked.empty());
  CHECK(bench.broker.routed.front() == "e1");
  CHECK(bench.broker.routed.back() == "e6");
  CHECK(bench.counters.published == 6);
}

TEST_CASE("a lost channel without the broker's complaint parks nothing") {
  Bench bench;
  bench.log.add("t");
  bench.broker.answer = [](const amqp::Message&) { return Answer::Silence; };
  bench.start();
  for (const int code : {0, 320, 541, 404}) {
    bench.turns(3);
    bench.reconnect(code);
  }
  CHECK(bench.log.parked.empty());
  bench.broker.answer = [](const amqp::Message&) { return Answer::Route; };
  bench.runFor(2s);
  CHECK(bench.broker.routed == Ids{"e1"});
}

TEST_CASE("a new channel is tried with one message first") {
  Bench bench;
  for (int i = 0; i < 10; ++i) bench.log.add("t");
  bench.broker.answer = [](const amqp::Message&) { return Answer::Silence; };
  bench.start();
  bench.runFor(900ms);
  CHECK(bench.broker.sent == Ids{"e1"});
  bench.channel->say(amqp::Confirm{1, false, true});
  bench.turns(3);
  CHECK(bench.broker.sent.size() == 10);
  bench.reconnect();
  bench.runFor(900ms);
  CHECK(bench.broker.sent.size() == 11);
  CHECK(bench.broker.sent.back() == "e2");
}

TEST_CASE("a queue that hangs under the first message of a channel holds up no other for long") {
  Bench bench;
  bench.log.add("hangs");
  for (int i = 0; i < 10; ++i) bench.log.add("fine");
  bench.broker.answer = [](const amqp::Message& message) {
    return message.type == "hangs" ? Answer::Silence : Answer::Route;
  };
  bench.start();
  bench.runFor(3s);
  CHECK(bench.counters.published == 10);
  CHECK(bench.log.parked.empty());
}

TEST_CASE("one multiple confirm settles a whole window") {
  Bench bench;
  for (int i = 0; i < 10; ++i) bench.log.add("t");
  bench.broker.answer = [](const amqp::Message& message) {
    return message.messageId == "e1" ? Answer::Route : Answer::Silence;
  };
  bench.start();
  bench.runFor(100ms);
  REQUIRE(bench.channel->lastTag() == 10);
  bench.channel->say(amqp::Confirm{10, true, true});
  bench.untilCheckpoints(1);
  CHECK(bench.counters.published == 10);
  CHECK(placeOf(bench.log.saved) == 10);
}

TEST_CASE("nothing is sent while the broker blocks publishers, for however long") {
  Bench bench;
  bench.log.add("t");
  bench.start();
  bench.turns(3);
  bench.channel->say(amqp::Blocked{true, "low on disk"});
  bench.turns(1);
  bench.log.add("t");
  bench.runFor(5min);
  CHECK(bench.broker.sent == Ids{"e1"});
  CHECK(placeOf(bench.log.checkpoints.back().cursor) == 1);
  bench.channel->say(amqp::Blocked{false, ""});
  bench.runFor(1s);
  CHECK(bench.broker.sent == Ids{"e1", "e2"});
}

TEST_CASE("a blocked broker may keep a confirm back for longer than the stall limit") {
  Bench bench;
  bench.log.add("t");
  bench.broker.answer = [](const amqp::Message&) { return Answer::Silence; };
  bench.start();
  bench.turns(2);
  bench.channel->say(amqp::Blocked{true, "alarm"});
  CHECK_NOTHROW(bench.runFor(5min));
  bench.channel->say(amqp::Blocked{false, ""});
  bench.channel->say(amqp::Confirm{1, false, true});
  CHECK_NOTHROW(bench.runFor(1s));
  CHECK(bench.counters.published == 1);
}

TEST_CASE("a confirm that does not come for the stall limit ends the connection") {
  Bench bench;
  bench.log.add("t");
  bench.start();
  bench.turns(3);
  bench.log.add("t");
  bench.broker.answer = [](const amqp::Message&) { return Answer::Silence; };
  CHECK_NOTHROW(bench.runFor(29s));
  CHECK_THROWS_AS(bench.runFor(3s), BrokerError);
}

TEST_CASE(
    "the first messages of a connection, for which all others wait, are not waited for so long") {
  Bench bench;
  for (int i = 0; i < 70; ++i) bench.log.add("hangs");
  bench.log.add("t");
  bench.broker.answer = [](const amqp::Message& message) {
    return message.type == "hangs" ? Answer::Hang : Answer::Route;
  };
  bench.start();
  CHECK_NOTHROW(bench.runFor(9s));
  CHECK(bench.broker.routed.empty());
  bench.runThroughLosses(3s);
  CHECK(bench.broker.routed == Ids{"e71"});
  CHECK(bench.log.reasonAt(1) == Reason::Unconfirmed);
}

TEST_CASE("a silent broker that could not be reached afterwards is no verdict on anybody") {
  Bench bench;
  bench.log.add("t");
  bench.broker.answer = [](const amqp::Message&) { return Answer::Silence; };
  bench.start();
  CHECK_THROWS_AS(bench.runFor(11s), BrokerError);
  bench.engine->channelLost();
  bench.broker.answer = everybodyHears;
  bench.connect(true);
  bench.runFor(1s);
  CHECK(bench.broker.routed == Ids{"e1"});
  CHECK(bench.log.parked.empty());
}

TEST_CASE("many late events of one type leave the road before their queue stops the connection") {
  Bench bench;
  for (int i = 0; i < 300; ++i) {
    bench.log.add(i % 2 == 0 ? "t" : "hangs");
    bench.log.rows.back().lane = i % 64;
  }
  bench.log.pageRows = 500;
  bench.broker.answer = [](const amqp::Message& message) {
    return message.type == "hangs" ? Answer::Silence : Answer::Route;
  };
  bench.start();
  for (int i = 0; i < 40; ++i) {
    bench.log.add("t");
    bench.runFor(100ms);
  }
  CHECK(bench.broker.routed.size() == 190);
  CHECK(bench.log.parked.size() == 150);
  REQUIRE(bench.log.parkedAt(2) != nullptr);
  CHECK(bench.log.reasonAt(2) == Reason::Unconfirmed);
}

TEST_CASE("an event larger than the window travels alone") {
  Bench bench;
  bench.options.windowBytes = 100;
  bench.log.add("t", "", 1);
  bench.log.add("t", "", 1'000);
  bench.log.add("t", "", 1);
  bench.broker.answer = [](const amqp::Message& message) {
    return message.messageId == "e1" ? Answer::Route : Answer::Silence;
  };
  bench.start();
  bench.runFor(1s);
  CHECK(bench.broker.sent == Ids{"e1", "e2"});
}

TEST_CASE("no more than a window and a page of events are in memory before the next is read") {
  Bench bench;
  bench.options.pageEvents = 10;
  bench.options.windowEvents = 20;
  bench.log.pageRows = 10;
  for (int i = 0; i < 100; ++i) bench.log.add("t");
  bench.broker.answer = [](const amqp::Message&) { return Answer::Silence; };
  bench.start();
  bench.runFor(1s);
  CHECK(bench.log.fetches == 3);
}

TEST_CASE("a checkpoint that finds the lease lost throws LeaseLost") {
  Bench bench;
  bench.log.add("t");
  bench.start();
  bench.turns(3);
  bench.log.leaseLost = true;
  CHECK_THROWS_AS(bench.runFor(10s), outbox::LeaseLost);
}

TEST_CASE("a relay that was paused asks for its lease before it sends anything") {
  Bench bench;
  bench.start();
  bench.runFor(1s);
  bench.log.add("t");
  bench.log.leaseLost = true;
  bench.clock.advance(1min);
  CHECK_THROWS_AS(bench.turns(10), outbox::LeaseLost);
  CHECK(bench.broker.sent.empty());
}

TEST_CASE("a checkpoint that takes long before a burst does not make the burst look stalled") {
  Bench bench;
  bench.options.broker.stallTimeout = 5s;
  bench.start();
  bench.runFor(1s);
  bench.log.add("t");
  bench.answer("e1", Answer::Silence);
  bench.clock.advance(1min);
  auto taken = 6s;  // by the first one
  bench.log.whileWriting = [&] { bench.clock.advance(std::exchange(taken, 0s)); };
  CHECK_NOTHROW(bench.turns(3));
  CHECK(taken == 0s);
  CHECK(bench.broker.sent == Ids{"e1"});
  CHECK_THROWS_AS(bench.runFor(6s), BrokerError);
}

TEST_CASE(
    "an idle relay renews its lease, and its cursor moves with time, so that space comes back") {
  Bench bench;
  bench.start();
  bench.runFor(31s);
  CHECK(bench.log.checkpoints.size() >= 10);
  CHECK(bench.log.checkpoints.size() <= 11);
  for (const auto& checkpoint : bench.log.checkpoints) CHECK(checkpoint.cursorMoved);
}

TEST_CASE("while events flow there is a checkpoint every checkpointEvery, not every turn") {
  Bench bench;
  bench.start();
  const auto end = bench.clock.boot() + 10s;
  while (bench.clock.boot() < end) {
    bench.log.add("t");
    bench.turns(3);
  }
  CHECK(bench.log.checkpoints.size() >= 15);
  CHECK(bench.log.checkpoints.size() <= 21);
}

TEST_CASE("a relay that finishes fetches nothing more, and is finished when all is settled") {
  Bench bench;
  bench.log.add("t");
  bench.broker.answer = [](const amqp::Message&) { return Answer::Silence; };
  bench.start();
  bench.runFor(100ms);
  bench.log.add("t");
  bench.engine->finish();
  bench.runFor(1s);
  CHECK_FALSE(bench.engine->finished());
  bench.channel->say(amqp::Confirm{1, false, true});
  bench.turns(2);
  CHECK(bench.engine->finished());
  bench.engine->writeCheckpoint();
  CHECK(placeOf(bench.log.saved) == 1);
  CHECK(bench.broker.sent == Ids{"e1"});
}

TEST_CASE("without a channel the turn still renews its lease by time") {
  Bench bench;
  bench.start();
  bench.engine->channelLost();
  CHECK_FALSE(bench.engine->checkpoint());
  bench.clock.advance(3s);
  CHECK(bench.engine->checkpoint());
  CHECK_FALSE(bench.engine->checkpoint());
}

TEST_CASE("a wake-up makes an idle relay look in its next turn") {
  Bench bench;
  bench.options.pollMost = 1h;
  bench.options.pollFirst = 1h;
  bench.start();
  bench.turns(2);
  const int before = bench.log.fetches;
  bench.clock.advance(1s);
  bench.engine->lookNow();
  bench.turns(1);
  CHECK(bench.log.fetches == before + 1);
}

TEST_CASE("events of one key are never in flight together, of many keys they are") {
  Bench bench;
  for (int i = 0; i < 9; ++i) bench.log.add("t", i % 3 == 0 ? "same" : "k" + std::to_string(i));
  bench.broker.answer = [](const amqp::Message& message) {
    return message.messageId == "e2" ? Answer::Route : Answer::Silence;
  };
  bench.start();
  bench.runFor(1s);
  bench.channel->say(amqp::Confirm{1, false, true});
  bench.runFor(1s);
  const auto sent = bench.broker.sent;
  CHECK(place(sent, "e1") < place(sent, "e4"));
  CHECK(place(sent, "e7") == sent.size());
}

TEST_CASE("an event over which relays end is found out, parked, and the others go out") {
  Bench bench;
  bench.log.add("fine");
  bench.log.add("deadly");
  bench.log.add("fine");
  struct Died {};
  bench.broker.answer = [](const amqp::Message& message) {
    if (message.type == "deadly") throw Died{};
    return Answer::Route;
  };
  int crashes = 0;
  for (; placeOf(bench.log.saved) < 3; ++crashes) {
    REQUIRE(crashes < 10);
    bench.start();
    bench.learn(crashes);
    try {
      bench.runFor(2s);
    } catch (const Died&) {
      continue;
    }
    break;
  }
  CHECK(crashes == 6);
  CHECK(bench.log.reasonAt(2) == Reason::Suspect);
  CHECK(bench.broker.routed.back() == "e3");
  CHECK(placeOf(bench.log.saved) == 3);
}

TEST_CASE("lanes are handed over at a confirmed boundary, and until then nothing is fetched") {
  Bench bench;
  bench.log.add("a", "k");
  bench.start();
  bench.broker.answer = [](const amqp::Message&) { return Answer::Silence; };
  bench.turns(3);
  bench.engine->handOver(32);
  bench.log.add("a", "k");
  const int fetches = bench.log.fetches;
  bench.turns(5);
  CHECK(outbox::countLanes(bench.engine->lanes()) == 64);
  CHECK(bench.log.fetches == fetches);
  bench.channel->say(amqp::Confirm{1, false, true});
  bench.turns(2);
  CHECK(outbox::countLanes(bench.engine->lanes()) == 32);
  const auto& checkpoint = bench.log.checkpoints.back();
  CHECK(outbox::countLanes(checkpoint.give.lanes()) == 32);
  CHECK(placeOf(checkpoint.give) == 1);
  CHECK((checkpoint.give.lanes() & checkpoint.cursor.lanes()) == 0);
}

TEST_CASE("with notify an idle relay says so, looks once more, and then sleeps until it is woken") {
  Bench bench;
  bench.options.notify = true;
  bench.options.notifyPoll = 60s;
  bench.start();
  bench.runFor(500ms);
  CHECK(bench.log.idle == std::vector<bool>{true});
  const int fetches = bench.log.fetches;
  bench.runFor(1s);
  CHECK(bench.log.fetches == fetches);
  bench.log.add("t");
  bench.engine->lookNow();
  bench.runFor(50ms);
  CHECK(bench.broker.routed == Ids{"e1"});
  CHECK(bench.log.idle == std::vector<bool>{true, false});
}

TEST_CASE("with notify a relay does not sleep while a writer may not have seen that it wants to") {
  Bench bench;
  bench.options.notify = true;
  bench.options.notifyPoll = 60s;
  bench.log.writerRuns = true;
  bench.start();
  bench.runFor(500ms);
  CHECK(bench.log.idle == std::vector<bool>{true});
  const int fetches = bench.log.fetches;
  bench.runFor(500ms);
  CHECK(bench.log.fetches > fetches + 10);
  bench.log.writerRuns = false;
  bench.runFor(100ms);
  const int asleep = bench.log.fetches;
  bench.runFor(1s);
  CHECK(bench.log.fetches == asleep);
}

TEST_CASE("an event that has expired when its turn comes is settled unsent, and counted") {
  Bench bench;
  bench.log.add("a", "k");
  bench.log.add("a", "k");
  bench.log.add("a", "k");
  bench.log.rows[0].expiresAt = "2026-01-31 00:00:00.5";  // the clock begins at midnight
  bench.log.rows[1].expiresAt = "2026-01-31 00:00:05";
  bench.start();
  bench.answer("e1", Answer::Silence);
  bench.turns(3);  // in time, and the next waits behind it
  bench.runFor(6s);
  bench.channel->say(amqp::Confirm{1, false, true});
  bench.untilCheckpoints(1);
  bench.runFor(2s);
  CHECK(bench.broker.routed == Ids{"e3"});
  CHECK(bench.counters.expired == 1);
  CHECK(bench.counters.published == 2);
  CHECK(bench.log.parked.empty());
  CHECK(placeOf(bench.log.saved) == 3);
}

TEST_CASE("two deadly events of one page are both found out, one by one") {
  Bench bench;
  for (const char* type : {"fine", "deadly", "deadly", "fine"}) bench.log.add(type);
  struct Died {};
  bench.broker.answer = [](const amqp::Message& message) {
    if (message.type == "deadly") throw Died{};
    return Answer::Route;
  };
  int deaths = 0;
  for (; placeOf(bench.log.saved) < 4; ++deaths) {
    REQUIRE(deaths < 10);
    bench.start();
    bench.learn(deaths);
    try {
      bench.runFor(2s);
    } catch (const Died&) {
    }
  }
  CHECK(bench.log.parked.size() == 2);
  CHECK(bench.log.reasonAt(2) == Reason::Suspect);
  CHECK(bench.log.reasonAt(3) == Reason::Suspect);
  CHECK(bench.broker.routed.back() == "e4");
}

TEST_CASE("relays that were killed one after the other where nothing was wrong park nothing") {
  Bench bench;
  for (int i = 0; i < 10; ++i) bench.log.add("fine");
  struct Killed {};
  int left = 0;
  bench.broker.answer = [&](const amqp::Message&) {
    if (--left == 0) throw Killed{};
    return Answer::Route;
  };
  for (int deaths = 0; deaths < 6; ++deaths) {
    bench.start();
    left = 2 + deaths;
    bench.learn(deaths);
    CHECK(bench.log.parked.empty());  // each was killed over another one
    try {
      bench.turns(8);
    } catch (const Killed&) {
    }
  }
  bench.broker.answer = [](const amqp::Message&) { return Answer::Route; };
  bench.start();
  bench.learn(6);
  bench.runFor(2s);
  CHECK(placeOf(bench.log.saved) == 10);
  CHECK(bench.log.parked.empty());
}

TEST_CASE("nothing is suspected once it was settled, and nothing is noted without an alert") {
  Bench bench;
  bench.log.add("fine");
  bench.start();
  bench.runFor(1s);
  CHECK(!bench.log.inHand);
  bench.log.add("fine");
  bench.start();
  bench.learn(3);
  bench.broker.answer = [&](const amqp::Message& message) {
    CHECK(bench.log.inHand == (message.messageId == "e2" ? 2 : 3));
    return Answer::Route;
  };
  bench.runFor(1s);
  CHECK(!bench.log.inHand);
}

TEST_CASE("a channel that goes on nacking a type that has recovered elsewhere is opened anew") {
  Bench bench;
  bench.options.probeFirst = 100ms;
  bench.log.add("t");
  bench.broker.answer = [](const amqp::Message&) { return Answer::Nack; };
  bench.start();
  bench.runFor(50ms);
  const int before = bench.channel->reopened;
  int nacks = 1;
  bench.broker.answer = [&](const amqp::Message& message) {
    return message.messageId == "e2" && nacks-- > 0 ? Answer::Nack : Answer::Route;
  };
  bench.runFor(2s);
  bench.log.add("t");
  bench.runFor(5s);
  CHECK(bench.broker.routed == Ids{"e1", "e2"});
  CHECK(bench.channel->reopened >= before + 2);
  CHECK(bench.log.parked.empty());
}

TEST_CASE(
    "an alert that begins while events are in memory does not make them wait for each other") {
  Bench bench;
  for (int i = 0; i < 10; ++i) bench.log.add("t", "k");
  bench.log.pageRows = 5;
  bench.start();
  bench.turns(2);
  bench.learn(3);
  bench.runFor(5s);
  CHECK(bench.broker.routed.size() == 10);
  CHECK(placeOf(bench.log.saved) == 10);
}

TEST_CASE("a connection that ends before a closed channel is opened again takes no event along") {
  Bench bench;
  for (int i = 0; i < 3; ++i) bench.log.add("t", "k" + std::to_string(i % 2));
  bool closes = true;
  bench.broker.answer = [&](const amqp::Message& message) {
    if (message.messageId != "e2" || !std::exchange(closes, false)) return Answer::Route;
    bench.channel->reopenFails = true;
    return Answer::Close;
  };
  bench.start();
  bench.runThroughLosses(60s);
  CHECK_FALSE(closes);
  CHECK(bench.log.parked.empty());
  const std::set<std::string> arrived(bench.broker.routed.begin(), bench.broker.routed.end());
  CHECK(arrived == std::set<std::string>{"e1", "e2", "e3"});
  CHECK(placeOf(bench.log.saved) == 3);
}
