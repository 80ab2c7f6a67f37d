#include "relay/prober.hpp"

#include <doctest/doctest.h>

#include "support/engine_bench.hpp"

using namespace pillion;
using namespace pillion::test;
using Bench = EngineBench;

TEST_CASE("an unroutable event is parked in the checkpoint that moves the cursor past it") {
  Bench bench;
  bench.log.add("lonely");
  bench.broker.answer = nobodyHears;
  bench.start();
  bench.untilCheckpoints(1);
  const auto& checkpoint = bench.log.checkpoints.front();
  REQUIRE(checkpoint.parked.park.size() == 1);
  CHECK(checkpoint.parked.park[0].id == 1);
  CHECK(checkpoint.parked.park[0].reason == Reason::Unroutable);
  CHECK(checkpoint.cursorMoved);
  CHECK(placeOf(checkpoint.cursor) == 1);
  CHECK(bench.counters.unroutable == 1);
  CHECK(bench.counters.published == 0);
}

TEST_CASE("once a type is known to be unroutable, its events are parked unsent") {
  Bench bench;
  bench.options.probeFirst = 1h;
  bench.options.probeMost = 1h;
  bench.log.add("lonely");
  bench.broker.answer = nobodyHearsLonely;
  bench.start();
  bench.untilCheckpoints(1);
  bench.log.add("lonely");
  bench.log.add("t");
  bench.runFor(2s);
  CHECK(bench.broker.sent == Ids{"e1", "e3"});
  CHECK(bench.log.parked.size() == 2);
  CHECK(placeOf(bench.log.saved) == 3);
}

TEST_CASE("a page of which every event is parked unsent moves the cursor in the same checkpoint") {
  Bench bench;
  bench.options.probeFirst = 1h;
  bench.options.probeMost = 1h;
  bench.log.addParked("lonely");
  bench.start();
  bench.log.add("lonely");
  bench.runFor(5s);
  REQUIRE(bench.log.parkedAt(2) != nullptr);
  CHECK(placeOf(bench.log.saved) == 2);
  for (const auto& checkpoint : bench.log.checkpoints) {
    CHECK((checkpoint.parked.park.empty() || checkpoint.cursorMoved));
  }
}

TEST_CASE("a row that can be no message is parked with the reason and holds up nobody") {
  Bench bench;
  bench.log.add("t");
  bench.log.addBad("t");
  bench.log.add("t");
  bench.start();
  bench.runFor(2s);
  CHECK(bench.broker.routed == Ids{"e1", "e3"});
  REQUIRE(bench.log.parkedAt(2) != nullptr);
  CHECK(bench.log.reasonAt(2) == Reason::Invalid);
  CHECK(placeOf(bench.log.saved) == 3);
}

TEST_CASE("a page with nothing but a row that can be no message moves the cursor, too") {
  Bench bench;
  bench.log.addBad("t");
  bench.start();
  bench.runFor(5s);
  REQUIRE(bench.log.parkedAt(1) != nullptr);
  CHECK(placeOf(bench.log.saved) == 1);
}

TEST_CASE("parked events follow in their order when their type is routed, and leave the table") {
  Bench bench;
  for (int i = 0; i < 4; ++i) bench.log.addParked("lonely", "k");
  bench.broker.answer = nobodyHears;
  bench.start();
  bench.runFor(3s);
  CHECK(bench.broker.routed.empty());
  CHECK(bench.broker.sent.size() >= 2);
  CHECK(std::ranges::count(bench.broker.sent, "e1") ==
        static_cast<std::ptrdiff_t>(bench.broker.sent.size()));
  bench.broker.answer = [](const amqp::Message&) { return Answer::Route; };
  bench.runFor(60s);
  CHECK(bench.broker.routed == Ids{"e1", "e2", "e3", "e4"});
  CHECK(bench.log.parked.empty());
}

TEST_CASE("a new event of a type that is drained stays behind the parked ones") {
  Bench bench;
  bench.log.addParked("lonely", "k");
  bench.log.addParked("lonely", "k");
  bench.start();
  bench.log.add("lonely", "k");
  bench.runFor(60s);
  CHECK(bench.broker.routed == Ids{"e1", "e2", "e3"});
  bench.log.add("lonely", "k");
  bench.runFor(1s);
  CHECK(bench.broker.routed.back() == "e4");
  CHECK(bench.log.parked.empty());
}

TEST_CASE("an event that was read before its type proved unroutable does not overtake the parked") {
  Bench bench;
  bench.log.add("lonely", "k");
  bench.log.add("lonely", "k");
  bench.answer("e1", Answer::Return);  // the queue is bound between the two
  bench.start();
  bench.turns(5);
  bench.broker.answer = [](const amqp::Message&) { return Answer::Route; };
  bench.runFor(60s);
  CHECK(bench.broker.routed == Ids{"e1", "e2"});
}

TEST_CASE("a parked event that is returned once more is not overtaken by the next parked one") {
  Bench bench;
  for (int i = 0; i < 3; ++i) bench.log.addParked("lonely", "k");
  bench.broker.answer = [returns = 1](const amqp::Message& message) mutable {
    return message.messageId == "e2" && returns-- > 0 ? Answer::Return : Answer::Route;
  };
  bench.start();
  bench.runFor(60s);
  CHECK(bench.broker.routed == Ids{"e1", "e2", "e3"});
}

TEST_CASE("a row that can be no message among the parked ones does not keep the others there") {
  Bench bench;
  bench.log.addParked("lonely");
  bench.log.parkedAt(1)->row.headers = R"({"number":1})";
  bench.start();
  bench.log.add("lonely");
  bench.runFor(120s);
  CHECK(bench.broker.routed == Ids{"e2"});
}

TEST_CASE("a refused event is sent again, and later events of its key wait for it") {
  Bench bench;
  bench.log.add("t", "a");
  bench.log.add("t", "a");
  bench.log.add("other", "b");
  int refusals = 3;
  bench.broker.answer = [&](const amqp::Message& message) {
    return message.messageId == "e1" && refusals-- > 0 ? Answer::Nack : Answer::Route;
  };
  bench.start();
  bench.runFor(20s);
  CHECK(bench.broker.routed == Ids{"e3", "e1", "e2"});
  CHECK(bench.counters.nacked == 3);
  CHECK(bench.counters.published == 3);
  CHECK(placeOf(bench.log.saved) == 3);
}

TEST_CASE("a refused event is not sent again at once") {
  Bench bench;
  bench.log.add("t");
  bench.answer("e1", Answer::Nack);
  bench.start();
  const auto begin = bench.clock.boot();
  bench.runFor(1s);
  CHECK(bench.broker.sent.size() >= 2);
  CHECK(bench.broker.sent.size() <= 10);
  CHECK(bench.clock.boot() - begin >= 1s);
}

TEST_CASE("an event over which the broker closes the channel is parked, all others get through") {
  Bench bench;
  for (int i = 0; i < 9; ++i) bench.log.add(i == 5 ? "huge" : "t", i % 2 == 0 ? "k" : "");
  bench.broker.answer = [&](const amqp::Message& message) {
    if (message.type != "huge") return Answer::Route;
    return Answer::Close;
  };
  bench.start();
  bench.runThroughLosses(5s);
  REQUIRE(bench.log.parked.size() == 1);
  CHECK(bench.log.reasonAt(6) == Reason::Refused);
  CHECK(placeOf(bench.log.saved) == 9);
  CHECK(bench.counters.published == 8);
  CHECK(std::ranges::count(bench.broker.sent, "e6") == 2);
}

TEST_CASE("a message that cannot be put on the wire is parked as refused, and the next is sent") {
  Bench bench;
  bench.log.add("t");
  bench.log.add("unsendable", "k");
  bench.log.add("t", "k");
  bench.broker.answer = [](const amqp::Message& message) -> Answer {
    if (message.type == "unsendable") throw amqp::MessageUnsendable("table too big");
    return Answer::Route;
  };
  bench.start();
  bench.runThroughLosses(2s);
  CHECK(bench.broker.routed.back() == "e3");
  REQUIRE(bench.log.parkedAt(2) != nullptr);
  CHECK(bench.log.reasonAt(2) == Reason::Refused);
  CHECK(placeOf(bench.log.saved) == 3);
}

TEST_CASE("a parked event that the broker refuses is not tried again soon, those behind it are") {
  Bench bench;
  bench.log.addParked("lonely");
  bench.log.addParked("lonely");
  bench.broker.answer = [&](const amqp::Message& message) {
    if (message.messageId != "e1") return Answer::Route;
    return Answer::Close;
  };
  bench.start();
  bench.runThroughLosses(30s);
  CHECK(bench.broker.routed == Ids{"e2"});
  REQUIRE(bench.log.parked.size() == 1);
  CHECK(bench.log.reasonAt(1) == Reason::Refused);
  CHECK(std::ranges::count(bench.broker.sent, "e1") == 1);
}

TEST_CASE("the window holds no more events than it may") {
  Bench bench;
  bench.options.windowEvents = 3;
  for (int i = 0; i < 10; ++i) bench.log.add("t");
  bench.answer("e1", Answer::Route);
  bench.broker.answer = [](const amqp::Message& message) {
    return message.messageId == "e1" ? Answer::Route : Answer::Silence;
  };
  bench.start();
  bench.runFor(1s);
  CHECK(bench.broker.sent.size() == 4);
  bench.channel->say(amqp::Confirm{2, false, true});
  bench.runFor(1s);
  CHECK(bench.broker.sent.size() == 5);
}

TEST_CASE("the window holds no more payload bytes than it may, but for one larger event alone") {
  Bench bench;
  bench.options.windowBytes = 100;
  bench.log.add("t", "", 1);
  bench.log.add("t", "", 60);
  bench.log.add("t", "", 60);
  bench.broker.answer = [](const amqp::Message& message) {
    return message.messageId == "e1" ? Answer::Route : Answer::Silence;
  };
  bench.start();
  bench.runFor(1s);
  CHECK(bench.broker.sent == Ids{"e1", "e2"});
}

TEST_CASE("with hold, later events of a parked one's key wait behind it and then follow in order") {
  Bench bench;
  bench.options.parked = ParkedPolicy::Hold;
  bench.broker.answer = nobodyHearsLonely;
  bench.log.add("lonely", "a");
  bench.log.add("heard", "a");
  bench.log.add("heard", "b");
  bench.log.add("lonely", "a");
  bench.log.add("heard", "a");
  bench.start();
  bench.runFor(1s);
  CHECK(bench.broker.routed == Ids{"e3"});
  CHECK(bench.log.reasonAt(1) == Reason::Unroutable);
  CHECK(bench.log.reasonAt(2) == Reason::Held);
  CHECK(bench.log.reasonAt(4) == Reason::Held);
  CHECK(bench.log.parkedAt(2)->attempts == 0);
  CHECK(placeOf(bench.log.saved) == 5);
  bench.log.add("heard", "a");  // e6 comes while the key waits
  bench.runFor(1s);
  CHECK(bench.broker.routed == Ids{"e3"});
  bench.broker.answer = [](const amqp::Message&) { return Answer::Route; };
  bench.runFor(60s);
  CHECK(bench.broker.routed == Ids{"e3", "e1", "e2", "e4", "e5", "e6"});
  CHECK(bench.log.parked.empty());
  bench.log.add("heard", "a");
  bench.runFor(1s);
  CHECK(bench.broker.routed.back() == "e7");
  CHECK(bench.log.parked.empty());
}

TEST_CASE("with hold, one that waited and is unroutable itself holds up those behind it anew") {
  Bench bench;
  bench.options.parked = ParkedPolicy::Hold;
  bench.log.add("first", "a");
  bench.log.add("second", "a");
  bench.log.add("heard", "a");
  bool firstIsBound = false;
  bench.broker.answer = [&](const amqp::Message& message) {
    if (message.type == "heard") return Answer::Route;
    return message.type == "first" && firstIsBound ? Answer::Route : Answer::Return;
  };
  bench.start();
  bench.runFor(1s);
  firstIsBound = true;
  bench.runFor(60s);
  CHECK(bench.broker.routed == Ids{"e1"});
  CHECK(bench.log.reasonAt(2) == Reason::Unroutable);
  CHECK(bench.log.reasonAt(3) == Reason::Held);
  bench.broker.answer = [](const amqp::Message&) { return Answer::Route; };
  bench.runFor(60s);
  CHECK(bench.broker.routed == Ids{"e1", "e2", "e3"});
}

TEST_CASE("with continue, later events of a parked one's key do not wait") {
  Bench bench;
  bench.broker.answer = nobodyHearsLonely;
  bench.log.add("lonely", "a");
  bench.log.add("heard", "a");
  bench.start();
  bench.runFor(1s);
  CHECK(bench.broker.routed == Ids{"e2"});
}

TEST_CASE("what was held is taken up by the next relay, and let go by one with continue") {
  for (const auto policy : {ParkedPolicy::Hold, ParkedPolicy::Continue}) {
    Bench bench;
    bench.options.parked = ParkedPolicy::Hold;
    bench.broker.answer = nobodyHearsLonely;
    bench.log.add("lonely", "a");
    for (int i = 0; i < 5; ++i) bench.log.add("heard", "a");
    bench.log.passRows = 2;
    bench.start();
    bench.runFor(1s);
    CHECK(bench.broker.routed.empty());
    bench.options.parked = policy;
    bench.start();
    bench.log.add("heard", "a");
    bench.runFor(5s);
    const bool letGo = policy == ParkedPolicy::Continue;  // after the next attempt
    CHECK(bench.broker.routed == (letGo ? Ids{"e2", "e3", "e4", "e5", "e6", "e7"} : Ids{}));
    bench.broker.answer = everybodyHears;
    bench.runFor(60s);
    CHECK(bench.broker.routed == (letGo ? Ids{"e2", "e3", "e4", "e5", "e6", "e7", "e1"}
                                        : Ids{"e1", "e2", "e3", "e4", "e5", "e6", "e7"}));
    CHECK(bench.log.parked.empty());
  }
}

TEST_CASE("with drop, unroutable events are counted and not parked") {
  Bench bench;
  bench.options.unroutable = UnroutablePolicy::Drop;
  bench.broker.answer = nobodyHearsLonely;
  bench.log.add("lonely");
  bench.log.add("heard");
  bench.log.add("lonely");
  bench.start();
  bench.runFor(1s);
  CHECK(bench.broker.routed == Ids{"e2"});
  CHECK(bench.log.parked.empty());
  CHECK(bench.counters.dropped == 2);
  CHECK(placeOf(bench.log.saved) == 3);
}

TEST_CASE("a refused event is tried again after a while, alone, and leaves when it is taken") {
  Bench bench;
  bool limitRaised = false;
  bench.broker.answer = [&](const amqp::Message& message) {
    if (message.type != "huge" || limitRaised) return Answer::Route;
    return Answer::Close;
  };
  bench.log.add("huge");
  bench.log.add("heard");
  bench.start();
  bench.runThroughLosses(30s);
  CHECK(bench.log.reasonAt(1) == Reason::Refused);
  CHECK(bench.log.parkedAt(1)->attempts == 1);
  bench.runThroughLosses(90s);
  CHECK(bench.log.parkedAt(1)->attempts == 2);
  limitRaised = true;
  bench.runThroughLosses(600s);
  CHECK(bench.log.parked.empty());
  CHECK(bench.broker.routed == Ids{"e2", "e1"});
}

TEST_CASE("a parked event that expires is removed from the parked ones without being sent") {
  Bench bench;
  bench.log.addParked("lonely");
  bench.log.parkedAt(1)->row.expiresAt = "2026-01-31 00:00:05";
  bench.answer("e1", Answer::Return);
  bench.start();
  bench.runFor(3s);
  CHECK(bench.log.parked.size() == 1);
  bench.runFor(120s);
  CHECK(bench.log.parked.empty());
  CHECK(bench.broker.routed.empty());
  CHECK(bench.counters.expired == 1);
}

TEST_CASE("an event whose queue hangs holds up no other, on the same channel or the next") {
  Bench bench;
  bench.options.broker.stallTimeout = 5s;
  bench.log.add("hangs", "k");
  bench.log.add("fine", "k");  // of the same key: waits
  bench.log.add("hangs");
  bench.start();
  bool hangs = true;
  bench.broker.answer = [&](const amqp::Message& message) {
    return hangs && message.type == "hangs" ? Answer::Silence : Answer::Route;
  };
  bench.runThroughLosses(6s);  // nothing was ever confirmed: it may be the broker
  for (int i = 0; i < 10; ++i) {
    bench.log.add("fine");
    bench.runThroughLosses(6s);
    CHECK(bench.broker.routed.size() == static_cast<std::size_t>(i + 1));
  }
  CHECK(bench.log.reasonAt(1) == Reason::Unconfirmed);
  CHECK(bench.log.reasonAt(2) == Reason::Held);
  CHECK(placeOf(bench.log.saved) == 13);
  hangs = false;
  bench.runThroughLosses(60s);
  CHECK(placeOf(bench.log.saved) == 13);
  CHECK(place(bench.broker.routed, "e1") < place(bench.broker.routed, "e2"));
}

TEST_CASE("while others are confirmed, an event whose queue hangs is not sent again at once") {
  Bench bench;
  bench.options.broker.stallTimeout = 10s;
  bench.log.add("hangs");
  bench.answer("e1", Answer::Silence);
  bench.start();
  for (int second = 0; second < 60; ++second) {
    bench.log.add("fine");
    bench.runThroughLosses(1s);
  }
  CHECK(std::ranges::count(bench.broker.sent, "e1") <= 9);
  CHECK(bench.broker.routed.size() >= 60);
}

TEST_CASE("with hold, what waits for an event that an operator has discarded goes on") {
  Bench bench;
  bench.options.parked = ParkedPolicy::Hold;
  bench.broker.answer = nobodyHearsLonely;
  bench.log.addBad("lonely");
  bench.log.rows.back().key = "a";
  for (int i = 0; i < 3; ++i) bench.log.add("heard", "a");
  bench.start();
  bench.runFor(5s);
  CHECK(bench.broker.routed.empty());
  CHECK(bench.log.reasonAt(1) == Reason::Invalid);
  bench.log.discard([](const auto& parked) { return parked.row.id == 1; });
  bench.runFor(5s);
  CHECK(bench.broker.routed == Ids{"e2", "e3", "e4"});
  CHECK(bench.log.parked.empty());
  bench.log.add("heard", "a");
  bench.runFor(1s);
  CHECK(bench.broker.routed.back() == "e5");
}

TEST_CASE("keys that wait are looked after a hundred at a time") {
  Bench bench;
  bench.options.parked = ParkedPolicy::Hold;
  bench.broker.answer = nobodyHearsLonely;
  for (int key = 0; key < 250; ++key) {
    bench.log.add("lonely", "k" + std::to_string(key));
    bench.log.add("heard", "k" + std::to_string(key));
  }
  bench.start();
  bench.runFor(5s);
  const int before = bench.log.questions[outbox::ParkedQuestion::Kind::Heads];
  bench.log.discard([](const auto& parked) { return parked.row.type == "lonely"; });
  bench.runFor(10s);
  CHECK(bench.broker.routed.size() == 250);
  CHECK(bench.log.parked.empty());
  CHECK(bench.log.questions[outbox::ParkedQuestion::Kind::Heads] - before < 20);
}

TEST_CASE("an event type can hold its key when the others do not") {
  Bench bench;
  bench.options.holdTypes = {"order.#"};
  bench.broker.answer = [](const amqp::Message& message) {
    return message.type.ends_with("lonely") ? Answer::Return : Answer::Route;
  };
  bench.log.add("order.lonely", "a");
  bench.log.add("heard", "a");
  bench.log.add("stock.lonely", "b");
  bench.log.add("heard", "b");
  bench.start();
  bench.runFor(1s);
  CHECK(bench.broker.routed == Ids{"e4"});
  CHECK(bench.log.reasonAt(2) == Reason::Held);
  bench.start();  // the next relay, too
  bench.log.add("order.heard", "a");
  bench.runFor(1s);
  CHECK(bench.broker.routed == Ids{"e4"});
  bench.broker.answer = [](const amqp::Message&) { return Answer::Route; };
  bench.runFor(60s);
  CHECK(place(bench.broker.routed, "e1") < place(bench.broker.routed, "e2"));
  CHECK(place(bench.broker.routed, "e2") < place(bench.broker.routed, "e5"));
  CHECK(bench.log.parked.empty());
}

TEST_CASE("a probe that has expired says nothing of its type's queue") {
  Bench bench;
  for (int i = 0; i < 30; ++i) bench.log.addParked("lonely");
  bench.log.parkedAt(1)->row.expiresAt = "2026-01-31 00:00:00.1";
  bench.broker.answer = nobodyHears;
  bench.start();
  bench.runFor(2s);
  CHECK(bench.log.parked.size() == 29);
  CHECK(bench.broker.sent.size() <= 4);  // one at a time, not all that follow
}

TEST_CASE("a refused event that comes back as unroutable is probed like the others of its type") {
  Bench bench;
  bench.log.add("big");
  bench.answer("e1", Answer::Silence);
  bench.start();
  bench.turns(3);
  bench.reconnect(406);
  bench.broker.answer = nobodyHears;
  bench.runFor(120s);
  CHECK(bench.log.reasonAt(1) == Reason::Unroutable);
  bench.broker.answer = [](const amqp::Message&) { return Answer::Route; };
  bench.runFor(60s);
  CHECK(bench.log.parked.empty());
  CHECK(bench.broker.routed == Ids{"e1"});
}

TEST_CASE("parked events that may go out are read no faster than they are sent") {
  Bench bench;
  bench.options.windowEvents = 10;
  bench.options.pageEvents = 10;
  bench.options.probeFirst = 100ms;
  for (int i = 0; i < 400; ++i) bench.log.addParked("t" + std::to_string(i % 20));
  bench.broker.answer = [](const amqp::Message&) { return Answer::Silence; };
  bench.start();
  bench.runFor(5s);
  CHECK(bench.log.questions[outbox::ParkedQuestion::Kind::Probe] <= 20);
  bench.start();
  bench.broker.answer = [](const amqp::Message&) { return Answer::Route; };
  bench.runFor(60s);
  CHECK(bench.log.parked.empty());
}
