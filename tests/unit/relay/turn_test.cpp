#include "relay/turn.hpp"

#include <doctest/doctest.h>
#include <spdlog/sinks/null_sink.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <map>
#include <memory>
#include <pillion/log.hpp>

#include "support/fake_broker.hpp"
#include "support/fake_event_log.hpp"
#include "support/manual_clock.hpp"

using namespace std::chrono_literals;
using namespace pillion;
using pillion::relay::LeaseLost;
using pillion::relay::Turn;
using pillion::test::Answer;
using Ids = std::vector<std::string>;

namespace {

/// A turn between an outbox and a broker in memory.
class Bench {
 public:
  Bench() {
    useLogger(
        std::make_shared<spdlog::logger>("quiet", std::make_shared<spdlog::sinks::null_sink_st>()));
  }
  ~Bench() { useLogger(nullptr); }
  Bench(const Bench&) = delete;
  Bench& operator=(const Bench&) = delete;

  /// A new incarnation of the relay, from the cursor that was saved last.
  void start() {
    turn = std::make_unique<Turn>(log, log.saved, options, counters, clock);
    connect();
  }

  /// So many relays ended before this one without having got any further.
  void learn(int crashes) {
    outbox::Balance balance;
    balance.taken = log.saved;
    balance.crashes = crashes;
    if (crashes >= outbox::kCrashesToSuspect) {
      balance.endangered = outbox::kAllLanes;
      if (log.suspected) ++deaths[*log.suspected];
      for (const auto& [id, count] : deaths) {
        if (count >= outbox::kDeathsToBlame) balance.suspects.insert(id);
      }
      for (const auto& [id, entry] : log.parked) {
        if (entry.reason == "suspect") balance.suspects.insert(id);
      }
    }
    log.suspected.reset();  // it was the last relay's
    turn->learn(balance);
  }

  void connect() {
    channel = std::make_unique<test::FakeChannel>(broker, clock);
    turn->useChannel(channel.get());
  }

  void turns(int count) {
    for (int i = 0; i < count; ++i) turn->run();
  }

  /// The channel is gone, as the turn will notice, and a new one takes its place.
  void reconnect(int replyCode = 0) {
    channel->lose(replyCode);
    try {
      turn->run();
      FAIL("the lost channel was not noticed");
    } catch (const BrokerError& error) {
      turn->channelLost(error);
    }
    connect();
  }

  /// Turns for so long on the bench's clock, over as many channels as it takes.
  void runThroughLosses(std::chrono::nanoseconds duration) {
    const auto end = clock.boot() + duration;
    for (int i = 0; clock.boot() < end; ++i) {
      REQUIRE(i < 100'000);  // else it is busy without end
      try {
        turn->run();
      } catch (const BrokerError& error) {
        turn->channelLost(error);
        connect();
      }
    }
  }

  /// Turns for so long on the bench's clock.
  void runFor(std::chrono::nanoseconds duration) {
    const auto end = clock.boot() + duration;
    for (int i = 0; clock.boot() < end; ++i) {
      REQUIRE(i < 100'000);  // else it is busy without end
      turn->run();
    }
  }

  /// Turns until something was checkpointed, as many times as asked.
  void untilCheckpoints(std::size_t count) {
    for (int i = 0; log.checkpoints.size() < count; ++i) {
      REQUIRE(i < 10'000);
      turn->run();
    }
  }

  void answer(const std::string& id, Answer with) {
    broker.answer = [=](const amqp::Message& message) {
      return message.messageId == id ? with : Answer::Route;
    };
  }

  test::ManualClock clock;
  test::FakeEventLog log;
  std::map<std::int64_t, int> deaths;  // over an event, noted
  test::FakeBroker broker;
  RelayOptions options;
  relay::Counters counters;
  std::unique_ptr<test::FakeChannel> channel;
  std::unique_ptr<Turn> turn;
};

std::int64_t placeOf(const outbox::Cursor& cursor) {
  return test::FakeEventLog::placeOf(cursor);
}

std::size_t place(const Ids& ids, const std::string& id) {
  return static_cast<std::size_t>(std::ranges::find(ids, id) - ids.begin());
}

Answer nobodyHears(const amqp::Message&) {
  return Answer::Return;
}

Answer nobodyHearsLonely(const amqp::Message& message) {
  return message.type == "lonely" ? Answer::Return : Answer::Route;
}

}  // namespace

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

TEST_CASE("an unroutable event is parked in the checkpoint that moves the cursor past it") {
  Bench bench;
  bench.log.add("lonely");
  bench.broker.answer = nobodyHears;
  bench.start();
  bench.untilCheckpoints(1);
  const auto& checkpoint = bench.log.checkpoints.front();
  REQUIRE(checkpoint.parked.park.size() == 1);
  CHECK(checkpoint.parked.park[0].id == 1);
  CHECK(checkpoint.parked.park[0].reason == "unroutable");
  CHECK(checkpoint.cursorMoved);
  CHECK(placeOf(checkpoint.cursor) == 1);
  CHECK(bench.counters.unroutable == 1);
  CHECK(bench.counters.published == 0);
}

TEST_CASE("once a type is known to be unroutable, its events are parked unsent") {
  Bench bench;
  bench.options.unroutableFirst = 1h;
  bench.options.unroutableMost = 1h;
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
  bench.options.unroutableFirst = 1h;
  bench.options.unroutableMost = 1h;
  bench.log.addParked("lonely");
  bench.start();
  bench.log.add("lonely");
  bench.runFor(5s);
  REQUIRE(bench.log.parked.contains(2));
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
  REQUIRE(bench.log.parked.contains(2));
  CHECK(bench.log.parked.at(2).reason == "invalid");
  CHECK(placeOf(bench.log.saved) == 3);
}

TEST_CASE("a page with nothing but a row that can be no message moves the cursor, too") {
  Bench bench;
  bench.log.addBad("t");
  bench.start();
  bench.runFor(5s);
  REQUIRE(bench.log.parked.contains(1));
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
  bench.log.parked.at(1).row.headers = R"({"number":1})";
  bench.start();
  bench.log.add("lonely");
  bench.runFor(120s);
  CHECK(bench.broker.routed == Ids{"e2"});
}

TEST_CASE("a refused event is sent again, and later events of its key wait for it") {
  Bench bench;
  bench.log.add("t", "a");
  bench.log.add("t", "a");
  bench.log.add("t", "b");
  int refusals = 3;
  bench.broker.answer = [&](const amqp::Message& message) {
    return message.messageId == "e1" && refusals-- > 0 ? Answer::Nack : Answer::Route;
  };
  bench.start();
  bench.runFor(2s);
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

TEST_CASE("an event over which the broker closes the channel is parked, all others get through") {
  Bench bench;
  for (int i = 0; i < 9; ++i) bench.log.add(i == 5 ? "huge" : "t", i % 2 == 0 ? "k" : "");
  bench.broker.answer = [&](const amqp::Message& message) {
    if (message.type != "huge") return Answer::Route;
    bench.channel->lose(406);
    return Answer::Silence;
  };
  bench.start();
  bench.runThroughLosses(5s);
  REQUIRE(bench.log.parked.size() == 1);
  CHECK(bench.log.parked.at(6).reason == "refused");
  CHECK(placeOf(bench.log.saved) == 9);
  CHECK(bench.counters.published == 8);
  CHECK(std::ranges::count(bench.broker.sent, "e6") == 2);
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
  REQUIRE(bench.log.parked.contains(2));
  CHECK(bench.log.parked.at(2).reason == "refused");
  CHECK(placeOf(bench.log.saved) == 3);
}

TEST_CASE("a parked event that the broker refuses is not tried again soon, those behind it are") {
  Bench bench;
  bench.log.addParked("lonely");
  bench.log.addParked("lonely");
  bench.broker.answer = [&](const amqp::Message& message) {
    if (message.messageId != "e1") return Answer::Route;
    bench.channel->lose(406);
    return Answer::Silence;
  };
  bench.start();
  bench.runThroughLosses(30s);
  CHECK(bench.broker.routed == Ids{"e2"});
  REQUIRE(bench.log.parked.size() == 1);
  CHECK(bench.log.parked.at(1).reason == "refused");
  CHECK(std::ranges::count(bench.broker.sent, "e1") == 1);
}

TEST_CASE("a new channel is tried with one message first") {
  Bench bench;
  for (int i = 0; i < 10; ++i) bench.log.add("t");
  bench.broker.answer = [](const amqp::Message&) { return Answer::Silence; };
  bench.start();
  bench.runFor(1s);
  CHECK(bench.broker.sent == Ids{"e1"});
  bench.channel->say(amqp::Confirm{1, false, true});
  bench.turns(3);
  CHECK(bench.broker.sent.size() == 10);
  bench.reconnect();
  bench.runFor(1s);
  CHECK(bench.broker.sent.size() == 11);
  CHECK(bench.broker.sent.back() == "e2");
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

TEST_CASE("a confirm that does not come for the stall limit ends the channel") {
  Bench bench;
  bench.log.add("t");
  bench.broker.answer = [](const amqp::Message&) { return Answer::Silence; };
  bench.start();
  CHECK_NOTHROW(bench.runFor(29s));
  CHECK_THROWS_AS(bench.runFor(3s), BrokerError);
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
  CHECK_THROWS_AS(bench.runFor(10s), LeaseLost);
}

TEST_CASE("a relay that was paused asks for its lease before it sends anything") {
  Bench bench;
  bench.start();
  bench.runFor(1s);
  bench.log.add("t");
  bench.log.leaseLost = true;
  bench.clock.advance(1min);
  CHECK_THROWS_AS(bench.turns(10), LeaseLost);
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

TEST_CASE("an idle relay renews its lease, and writes no cursor") {
  Bench bench;
  bench.start();
  bench.runFor(31s);
  CHECK(bench.log.checkpoints.size() >= 10);
  CHECK(bench.log.checkpoints.size() <= 11);
  for (const auto& checkpoint : bench.log.checkpoints) CHECK_FALSE(checkpoint.cursorMoved);
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
  bench.turn->finish();
  bench.runFor(1s);
  CHECK_FALSE(bench.turn->finished());
  bench.channel->say(amqp::Confirm{1, false, true});
  bench.turns(2);
  CHECK(bench.turn->finished());
  bench.turn->writeCheckpoint();
  CHECK(placeOf(bench.log.saved) == 1);
  CHECK(bench.broker.sent == Ids{"e1"});
}

TEST_CASE("without a channel the turn still renews its lease by time") {
  Bench bench;
  bench.start();
  bench.turn->channelLost(BrokerError("the channel is lost"));
  CHECK_FALSE(bench.turn->checkpoint());
  bench.clock.advance(3s);
  CHECK(bench.turn->checkpoint());
  CHECK_FALSE(bench.turn->checkpoint());
}

TEST_CASE("a wake-up makes an idle relay look in its next turn") {
  Bench bench;
  bench.options.pollMost = 1h;
  bench.options.pollFirst = 1h;
  bench.start();
  bench.turns(2);
  const int before = bench.log.fetches;
  bench.clock.advance(1s);
  bench.turn->lookNow();
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
  CHECK(bench.log.parked.at(1).reason == "unroutable");
  CHECK(bench.log.parked.at(2).reason == "held");
  CHECK(bench.log.parked.at(4).reason == "held");
  CHECK(bench.log.parked.at(2).attempts == 0);
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
  CHECK(bench.log.parked.at(2).reason == "unroutable");
  CHECK(bench.log.parked.at(3).reason == "held");
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

TEST_CASE("what was held is taken up by the next relay, also by one with continue") {
  for (const auto policy : {ParkedPolicy::Hold, ParkedPolicy::Continue}) {
    Bench bench;
    bench.options.parked = ParkedPolicy::Hold;
    bench.broker.answer = nobodyHearsLonely;
    bench.log.add("lonely", "a");
    for (int i = 0; i < 5; ++i) bench.log.add("heard", "a");
    bench.log.heldRows = 2;
    bench.start();
    bench.runFor(1s);
    CHECK(bench.broker.routed.empty());
    bench.options.parked = policy;
    bench.start();
    bench.runFor(1s);
    const bool goOn = policy == ParkedPolicy::Continue;
    CHECK(bench.broker.routed == (goOn ? Ids{"e2", "e3", "e4", "e5", "e6"} : Ids{}));
    bench.broker.answer = [](const amqp::Message&) { return Answer::Route; };
    bench.runFor(60s);
    CHECK(bench.broker.routed == (goOn ? Ids{"e2", "e3", "e4", "e5", "e6", "e1"}
                                       : Ids{"e1", "e2", "e3", "e4", "e5", "e6"}));
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
    bench.channel->lose(406);
    return Answer::Silence;
  };
  bench.log.add("huge");
  bench.log.add("heard");
  bench.start();
  bench.runThroughLosses(30s);
  CHECK(bench.log.parked.at(1).reason == "refused");
  CHECK(bench.log.parked.at(1).attempts == 1);
  bench.runThroughLosses(90s);
  CHECK(bench.log.parked.at(1).attempts == 2);
  limitRaised = true;
  bench.runThroughLosses(600s);
  CHECK(bench.log.parked.empty());
  CHECK(bench.broker.routed == Ids{"e2", "e1"});
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
  CHECK(crashes == 5);
  CHECK(bench.log.parked.at(2).reason == "suspect");
  CHECK(bench.broker.routed.back() == "e3");
  CHECK(placeOf(bench.log.saved) == 3);
}

TEST_CASE("lanes are handed over at a confirmed boundary, and until then nothing is fetched") {
  Bench bench;
  bench.log.add("a", "k");
  bench.start();
  bench.broker.answer = [](const amqp::Message&) { return Answer::Silence; };
  bench.turns(3);
  bench.turn->handOver(32);
  bench.log.add("a", "k");
  const int fetches = bench.log.fetches;
  bench.turns(5);
  CHECK(outbox::countLanes(bench.turn->lanes()) == 64);
  CHECK(bench.log.fetches == fetches);
  bench.channel->say(amqp::Confirm{1, false, true});
  bench.turns(2);
  CHECK(outbox::countLanes(bench.turn->lanes()) == 32);
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
  bench.turn->lookNow();
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

TEST_CASE("a parked event that expires is removed from the parked ones without being sent") {
  Bench bench;
  bench.log.addParked("lonely");
  bench.log.parked.at(1).row.expiresAt = "2026-01-31 00:00:05";
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
  CHECK(bench.log.parked.empty());
  CHECK(placeOf(bench.log.saved) == 0);
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
  CHECK(std::ranges::count(bench.broker.sent, "e1") <= 4);
  CHECK(bench.broker.routed.size() >= 60);
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
  CHECK(bench.log.parked.at(2).reason == "suspect");
  CHECK(bench.log.parked.at(3).reason == "suspect");
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
  CHECK(!bench.log.suspected);
  bench.log.add("fine");
  bench.start();
  bench.learn(3);
  bench.broker.answer = [&](const amqp::Message& message) {
    CHECK(bench.log.suspected == (message.messageId == "e2" ? 2 : 3));
    return Answer::Route;
  };
  bench.runFor(1s);
  CHECK(!bench.log.suspected);
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
  CHECK(bench.log.parked.at(1).reason == "invalid");
  bench.log.parked.erase(1);
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
  const int before = bench.log.heldFetches;
  std::erase_if(bench.log.parked,
                [](const auto& entry) { return entry.second.row.type == "lonely"; });
  bench.runFor(10s);
  CHECK(bench.broker.routed.size() == 250);
  CHECK(bench.log.parked.empty());
  CHECK(bench.log.heldFetches - before < 20);
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
  CHECK(bench.log.parked.at(2).reason == "held");
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
  bench.log.parked.at(1).row.expiresAt = "2026-01-31 00:00:00.1";
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
  CHECK(bench.log.parked.at(1).reason == "unroutable");
  bench.broker.answer = [](const amqp::Message&) { return Answer::Route; };
  bench.runFor(60s);
  CHECK(bench.log.parked.empty());
  CHECK(bench.broker.routed == Ids{"e1"});
}

TEST_CASE("parked events that may go out are read no faster than they are sent") {
  Bench bench;
  bench.options.windowEvents = 10;
  bench.options.pageEvents = 10;
  bench.options.unroutableFirst = 100ms;
  for (int i = 0; i < 400; ++i) bench.log.addParked("t" + std::to_string(i % 20));
  bench.broker.answer = [](const amqp::Message&) { return Answer::Silence; };
  bench.start();
  bench.runFor(5s);
  CHECK(bench.log.parkedFetches <= 20);
  bench.start();
  bench.broker.answer = [](const amqp::Message&) { return Answer::Route; };
  bench.runFor(60s);
  CHECK(bench.log.parked.empty());
}
