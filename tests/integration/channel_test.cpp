// The two roads of a publishing connection, on a real broker.
#define PILLION_TEST_MAIN
#include <deque>
#include <memory>

#include "fixture.hpp"

namespace pillion::test {
namespace {

using amqp::Incoming;
using amqp::Road;
using support::SuspendedQueue;

constexpr int kMostBytes = 1'000;

/// A broker of this program's own, which takes no message above kMostBytes.
support::RabbitServer& broker() {
  static const support::TemporaryDirectory directory;
  static support::RabbitServer server(
      directory / "rabbit", {.config = "max_message_size = " + std::to_string(kMostBytes)});
  return server;
}

BrokerOptions optionsFor(const std::string& exchange) {
  BrokerOptions options = brokerOptionsAt(broker(), exchange);
  options.connectTimeout = 3s;
  return options;
}

amqp::Message messageOf(std::int64_t outboxId, const std::string& routingKey,
                        std::size_t size = 10) {
  amqp::Message message;
  message.routingKey = routingKey;
  message.messageId =
      "0197f22e-79b0-7cc3-98c4-dc0c0c07398f";  // one for all: only outboxId is unique
  message.type = routingKey;
  message.appId = "test";
  message.body = std::string(size, 'x');
  message.attributes.emplace();
  message.attributes->outboxId = outboxId;
  return message;
}

/// An exchange with a queue "fine" for `fine.#` and a queue "other" for `other.#`.
struct Roads {
  explicit Roads(const std::string& queueType = "classic") {
    connection.declareTopicExchange(exchange);
    for (const std::string& name : {fine, other}) {
      connection.declareQueue({.name = name, .textArguments = {{"x-queue-type", queueType}}});
    }
    connection.bindQueue(fine, exchange, "fine.#");
    connection.bindQueue(other, exchange, "other.#");
    connection.openRoads(exchange);
  }

  /// The next thing of this kind; what else comes meanwhile is kept for later.
  template <typename Said>
  std::optional<Said> next(std::chrono::milliseconds limit = 5s) {
    std::optional<Said> found;
    const auto look = [&] {
      for (auto it = heard.begin(); it != heard.end() && !found; ++it) {
        if (!std::holds_alternative<Said>(*it)) continue;
        found = std::get<Said>(*it);
        heard.erase(it);
        break;
      }
      return found.has_value();
    };
    const auto until = std::chrono::steady_clock::now() + limit;
    while (!look() && std::chrono::steady_clock::now() < until) {
      if (auto incoming = connection.receive(100ms)) heard.push_back(std::move(*incoming));
    }
    return found;
  }

  /// Is everything up to this tag confirmed on this road?
  bool confirmed(Road road, std::uint64_t tag, std::chrono::milliseconds limit = 5s) {
    const auto until = std::chrono::steady_clock::now() + limit;
    while (std::chrono::steady_clock::now() < until) {
      const auto confirm = next<amqp::Confirm>(100ms);
      if (!confirm || confirm->road != road) continue;
      CHECK(confirm->positive);
      if (confirm->tag >= tag) return true;
    }
    return false;
  }

  std::string exchange = uniqueName("exchange");
  std::string fine = uniqueName("fine");
  std::string other = uniqueName("other");
  amqp::Connection connection{optionsFor(exchange), "test"};
  std::deque<Incoming> heard;
};

}  // namespace

TEST_CASE("each road counts its own tags, and confirms and returns tell the road and the event") {
  Roads roads;
  roads.connection.reopen(Road::Second);
  CHECK(roads.connection.publish(Road::Main, messageOf(1, "fine.a")) == 1);
  CHECK(roads.connection.publish(Road::Second, messageOf(2, "fine.a")) == 1);
  CHECK(roads.connection.publish(Road::Main, messageOf(3, "nobody.a")) == 2);
  CHECK(roads.connection.publish(Road::Second, messageOf(4, "nobody.a")) == 2);
  std::map<std::int64_t, Road> returned;
  for (int i = 0; i < 2; ++i) {
    const auto back = roads.next<amqp::Returned>();
    REQUIRE(back);
    CHECK(back->messageId == messageOf(0, "").messageId);
    returned[back->outboxId] = back->road;
  }
  CHECK(returned == std::map<std::int64_t, Road>{{3, Road::Main}, {4, Road::Second}});
  CHECK(roads.confirmed(Road::Main, 2));
}

TEST_CASE("a message that is too large closes its road, and the other goes on") {
  for (const Road sick : {Road::Main, Road::Second}) {
    const Road well = sick == Road::Main ? Road::Second : Road::Main;
    CAPTURE(static_cast<int>(sick));
    Roads roads;
    roads.connection.reopen(Road::Second);
    const amqp::Message large = messageOf(1, "fine.large", kMostBytes + 234);
    roads.connection.publish(sick, messageOf(2, "fine.a"));
    roads.connection.publish(sick, large);
    roads.connection.publish(sick, messageOf(3, "fine.a"));
    const auto tag = roads.connection.publish(well, messageOf(4, "fine.a"));
    CHECK(roads.confirmed(well, tag));
    const auto closed = roads.next<amqp::ChannelClosed>();
    REQUIRE(closed);
    CHECK(closed->road == sick);
    CHECK(closed->replyCode == 406);
    CHECK(closed->aboutMessage);
    CHECK(amqp::mentions(*closed, large));
    CHECK_FALSE(amqp::mentions(*closed, messageOf(2, "fine.a")));

    roads.connection.reopen(sick);
    CHECK(roads.connection.publish(sick, messageOf(5, "fine.a")) == 1);
    CHECK(roads.confirmed(sick, 1));
    CHECK(roads.connection.publish(well, messageOf(6, "fine.a")) == tag + 1);
    CHECK(roads.confirmed(well, tag + 1));
  }
}

TEST_CASE("a topic that the user may not write closes the road by its name") {
  Roads roads;
  broker().addUser("topics", "secret", ".*", ".*", ".*");
  broker().ctl({"set_topic_permissions", "topics", roads.exchange, "^fine", ".*"});
  auto options = optionsFor(roads.exchange);
  options.url = broker().url("topics", "secret");
  amqp::Connection connection(options, "test");
  connection.openRoads(roads.exchange);
  connection.publish(Road::Main, messageOf(1, "other.a"));
  std::optional<Incoming> incoming;
  REQUIRE(eventually(5s, [&] {
    incoming = connection.receive(100ms);
    return incoming && std::holds_alternative<amqp::ChannelClosed>(*incoming);
  }));
  const auto& closed = std::get<amqp::ChannelClosed>(*incoming);
  CHECK(closed.replyCode == 403);
  CHECK(closed.aboutMessage);
  CHECK(amqp::mentions(closed, messageOf(1, "other.a")));
}

TEST_CASE("an exchange that is gone closes the road, and that is no message's fault") {
  Roads roads;
  broker().deleteExchange(roads.exchange);
  roads.connection.publish(Road::Main, messageOf(1, "fine.a"));
  const auto closed = roads.next<amqp::ChannelClosed>();
  REQUIRE(closed);
  CHECK(closed->replyCode == 404);
  CHECK_FALSE(closed->aboutMessage);
}

TEST_CASE("for a connection that is no relay's, a closed channel is a BrokerError") {
  Roads roads;
  amqp::Connection connection(optionsFor(roads.exchange), "test");
  connection.selectConfirms(roads.exchange);
  connection.publish(messageOf(1, "fine.large", kMostBytes + 1));
  int code = 0;
  REQUIRE(eventually(5s, [&] {
    try {
      connection.receive(100ms);
    } catch (const BrokerError& error) {
      code = error.replyCode();
    }
    return code != 0;
  }));
  CHECK(code == 406);
}

TEST_CASE("a road whose queue hangs is given up at once, and the other keeps its confirms") {
  for (const std::string type : {"classic", "quorum"}) {
    CAPTURE(type);
    Roads roads(type);
    const SuspendedQueue hung(broker(), roads.other);
    for (int round = 0; round < 10; ++round) {
      CAPTURE(round);
      const auto begin = std::chrono::steady_clock::now();
      roads.connection.reopen(Road::Second);
      CHECK(std::chrono::steady_clock::now() - begin < 500ms);
      for (int i = 0; i < 20; ++i) roads.connection.publish(Road::Second, messageOf(i, "other.a"));
      const auto tag = roads.connection.publish(Road::Main, messageOf(100, "fine.a"));
      CHECK(roads.confirmed(Road::Main, tag));
      CHECK_FALSE(roads.next<amqp::ChannelClosed>(0ms));
    }
    roads.connection.reopen(Road::Second);
    CHECK(roads.connection.publish(Road::Second, messageOf(200, "fine.a")) == 1);
    CHECK(roads.confirmed(Road::Second, 1));
  }
}

TEST_CASE("channels that never end are given up until there are no more, and that is said") {
  Roads roads;
  const auto suspendChannels = [] {
    broker().eval("[catch sys:suspend(C) || C <- rabbit_channel:list()], ok");
  };
  int opened = 0;
  const auto giveUpForEver = [&] {
    for (; opened < 30; ++opened) {
      roads.connection.reopen(Road::Second);
      const auto tag = roads.connection.publish(Road::Second, messageOf(1, "fine.a"));
      REQUIRE(roads.confirmed(Road::Second, tag));
      suspendChannels();
    }
  };
  CHECK_THROWS_WITH_AS(giveUpForEver(), doctest::Contains("given up"), BrokerError);
  CHECK(opened >= 3);
  broker().eval("[catch sys:resume(C) || C <- rabbit_channel:list()], ok");
  CHECK(eventually(5s, [&] {
    roads.connection.receive(10ms);
    try {
      roads.connection.reopen(Road::Second);
    } catch (const BrokerError&) {
      return false;
    }
    return true;
  }));
  const auto tag = roads.connection.publish(Road::Second, messageOf(2, "fine.a"));
  CHECK(roads.confirmed(Road::Second, tag));
}

TEST_CASE("a road with as many messages at a hung queue as it may have leaves the other alone") {
  for (const std::string type : {"classic", "quorum"}) {
    CAPTURE(type);
    Roads roads(type);
    roads.connection.reopen(Road::Second);
    const SuspendedQueue hung(broker(), roads.other);
    for (std::size_t i = 0; i < amqp::kMostAtHungQueues; ++i) {
      roads.connection.publish(Road::Main, messageOf(1, "other.a"));
    }
    const auto tag = roads.connection.publish(Road::Second, messageOf(1, "fine.a"));
    CHECK(roads.confirmed(Road::Second, tag));
    roads.connection.reopen(Road::Main);
    CHECK(roads.connection.publish(Road::Main, messageOf(2, "fine.a")) == 1);
    CHECK(roads.confirmed(Road::Main, 1));
  }
}

}  // namespace pillion::test
