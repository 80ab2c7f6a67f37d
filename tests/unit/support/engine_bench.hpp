#pragma once

#include <doctest/doctest.h>
#include <spdlog/sinks/null_sink.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <map>
#include <memory>
#include <pillion/log.hpp>

#include "relay/engine.hpp"
#include "support/fake_broker.hpp"
#include "support/fake_event_log.hpp"
#include "support/manual_clock.hpp"
#include "support/scripted_random.hpp"

namespace pillion::test {

using namespace std::chrono_literals;
using outbox::Reason;
using Ids = std::vector<std::string>;

/// A turn between an outbox and a broker in memory.
class EngineBench {
 public:
  EngineBench() {
    useLogger(
        std::make_shared<spdlog::logger>("quiet", std::make_shared<spdlog::sinks::null_sink_st>()));
  }
  ~EngineBench() { useLogger(nullptr); }
  EngineBench(const EngineBench&) = delete;
  EngineBench& operator=(const EngineBench&) = delete;

  /// A new incarnation of the relay, from the cursor that was saved last.
  void start(outbox::Lanes lanes = outbox::kAllLanes) {
    engine = std::make_unique<relay::Engine>(log, log, options, counters, clock, random);
    outbox::Cursor cursor = log.saved;
    cursor.positions.front().lanes = lanes;
    engine->addLanes(cursor);
    connect();
  }

  /// So many relays ended before this one without having got any further.
  void learn(int crashes) {
    outbox::Balance balance;
    balance.taken = log.saved;
    balance.crashes = crashes;
    if (crashes >= outbox::kCrashesToSuspect) {
      balance.endangered = outbox::kAllLanes;
      for (const auto id : std::exchange(log.acquitted, {})) deaths.erase(id);
      if (log.inHand) ++deaths[*log.inHand];
      for (const auto& [id, count] : deaths) {
        if (count >= outbox::kDeathsToBlame) balance.suspects.insert(id);
      }
      for (const auto& [seq, entry] : log.parked) {
        if (entry.reason == Reason::Suspect) balance.suspects.insert(entry.row.id);
      }
    }
    log.inHand.reset();  // it was the last relay's
    engine->learn(balance);
  }

  void connect(bool wasAway = true) {
    channel = std::make_unique<FakeChannel>(broker, clock);
    engine->useChannel(channel.get(), wasAway);
  }

  void turns(int count) {
    for (int i = 0; i < count; ++i) engine->turn();
  }

  /// The channel is gone, as the turn will notice, and a new one takes its place.
  void reconnect(int replyCode = 0) {
    channel->lose(replyCode);
    try {
      engine->turn();
      FAIL("the lost channel was not noticed");
    } catch (const BrokerError&) {
      engine->channelLost();
    }
    connect();
  }

  /// Turns for so long on the bench's clock, over as many channels as it takes.
  void runThroughLosses(std::chrono::nanoseconds duration) {
    const auto end = clock.boot() + duration;
    for (int i = 0; clock.boot() < end; ++i) {
      REQUIRE(i < 100'000);  // else it is busy without end
      try {
        engine->turn();
      } catch (const BrokerError&) {
        engine->channelLost();
        connect(false);  // the broker was there all the time
      }
    }
  }

  /// Turns for so long on the bench's clock.
  void runFor(std::chrono::nanoseconds duration) {
    const auto end = clock.boot() + duration;
    for (int i = 0; clock.boot() < end; ++i) {
      REQUIRE(i < 100'000);  // else it is busy without end
      engine->turn();
    }
  }

  /// Turns until something was checkpointed, as many times as asked.
  void untilCheckpoints(std::size_t count) {
    for (int i = 0; log.checkpoints.size() < count; ++i) {
      REQUIRE(i < 10'000);
      engine->turn();
    }
  }

  void answer(const std::string& id, Answer with) {
    broker.answer = [=](const amqp::Message& message) {
      return message.messageId == id ? with : Answer::Route;
    };
  }

  ManualClock clock;
  SeededRandom random{1};
  FakeEventLog log;
  std::map<std::int64_t, int> deaths;  // over an event, noted
  FakeBroker broker;
  RelayOptions options;
  relay::Counters counters;
  std::unique_ptr<FakeChannel> channel;
  std::unique_ptr<relay::Engine> engine;
};

inline std::int64_t placeOf(const outbox::Cursor& cursor) {
  return FakeEventLog::placeOf(cursor);
}

inline std::size_t place(const Ids& ids, const std::string& id) {
  return static_cast<std::size_t>(std::ranges::find(ids, id) - ids.begin());
}

inline Answer nobodyHears(const amqp::Message&) {
  return Answer::Return;
}

inline Answer nobodyHearsLonely(const amqp::Message& message) {
  return message.type == "lonely" ? Answer::Return : Answer::Route;
}

inline Answer everybodyHears(const amqp::Message&) {
  return Answer::Route;
}

}  // namespace pillion::test
