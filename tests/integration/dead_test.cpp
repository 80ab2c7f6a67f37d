// Dead letters: looked at, sent again, discarded.
#define PILLION_TEST_MAIN
#include <nlohmann/json.hpp>
#include <pillion/dead_letters.hpp>

#include "consumer_fixture.hpp"

namespace pillion::test {
namespace {

using namespace std::chrono_literals;

struct Said {
  int status = 0;
  std::string text;
  [[nodiscard]] nlohmann::json json() const { return nlohmann::json::parse(text); }
};

/// `pillion dead …` for a service.
Said dead(const World& world, const std::string& verb, const std::string& service,
          const std::vector<std::string>& arguments, const std::string& failpoints = "") {
  support::ProcessOptions options;
  options.command = {PILLION_PROGRAM, "dead", verb, "--service", service};
  options.command.insert(options.command.end(), arguments.begin(), arguments.end());
  options.environment = environmentFor(world.database, world.exchange);
  options.environment["PILLION_FAILPOINTS"] = failpoints;
  const auto result = support::run(options);
  return {result.status, result.output};
}

/// A consumer that rejects every event while `broken`, and else writes the journal.
struct Scene {
  explicit Scene(const std::string& name) : service(name) {
    consumer = EventConsumer::create(service, {"#"}, world.consumerOptions());
    consumer->onEvent("#", [this](const Event& event, Transaction& tx) {
      if (broken) throw RejectEvent("wrong warehouse");
      writeJournal(event, tx);
    });
    consumer->start();
  }

  /// So many dead letters, numbered from 1.
  std::vector<Event> kill(std::size_t count) {
    auto events = numberedEvents(count, "a");
    send(world.exchange, events);
    REQUIRE(eventually(20s, [&] { return consumer->stats().deadLettered == count; }));
    REQUIRE(eventually(20s, [&] { return letters() == static_cast<long>(count); }));
    return events;
  }
  [[nodiscard]] long letters() const {
    return Servers::mq().queueDepth(consumer->queue() + ".dead");
  }
  [[nodiscard]] std::vector<std::string> idsInOrder() const {
    std::vector<std::string> ids;
    const auto listed = dead(world, "list", service, {"--json"}).json();
    for (const auto& letter : listed["letters"]) {
      ids.push_back(letter["id"]);
    }
    return ids;
  }

  World world;
  std::string service;
  std::atomic<bool> broken{true};
  std::unique_ptr<EventConsumer> consumer;
};

}  // namespace

TEST_CASE("a dead letter is listed, shown, redriven and applied once") {
  Scene scene("morgue");
  const auto events = scene.kill(1);
  const std::string id = events[0].id();

  const auto listed = dead(scene.world, "list", "morgue", {"--json"}).json();
  CHECK(listed["queue"] == "morgue.events");
  REQUIRE(listed["letters"].size() == 1);
  const auto& letter = listed["letters"][0];
  CHECK(letter["id"] == id);
  CHECK(letter["type"] == "order.placed");
  CHECK(letter["reason"] == "rejected");
  CHECK(letter["error"] == "wrong warehouse");
  CHECK(letter["attempts"] == 1);
  CHECK(letter["key"] == "a");
  CHECK(letter["queue"] == "morgue.events");
  CHECK(letter["exchange"] == scene.world.exchange);
  CHECK(letter["routing_key"] == "order.placed");
  CHECK(dead(scene.world, "list", "morgue", {}).text.find(id) != std::string::npos);
  const auto shown = dead(scene.world, "show", "morgue", {"--id", id}).text;
  CHECK(shown.find("{\"number\":1}") != std::string::npos);
  CHECK(shown.find("pillion-dead-first-at: 20") != std::string::npos);

  scene.broken = false;
  const auto redriven = dead(scene.world, "redrive", "morgue", {"--id", id, "--json"}).json();
  CHECK(redriven["redriven"] == 1);
  CHECK(eventually(20s, [&] { return scene.world.journal() == 1; }));
  CHECK(scene.letters() == 0);
  send(scene.world.exchange, events[0]);  // once more, from the producer
  CHECK(eventually(20s, [&] { return scene.consumer->stats().duplicates == 1; }));
  CHECK(scene.world.journal() == 1);
}

TEST_CASE("a redriven event that fails again dies again, with its first origin") {
  Scene scene("stubborn");
  scene.kill(1);
  CHECK(dead(scene.world, "redrive", "stubborn", {"--all"}).status == 0);
  CHECK(eventually(20s, [&] { return scene.consumer->stats().deadLettered == 2; }));
  const auto letters = readDeadLetters(scene.consumer->queue(), 1);
  REQUIRE(letters.size() == 1);
  CHECK(header(letters[0], "pillion-dead-exchange") == scene.world.exchange);
  CHECK(header(letters[0], "pillion-dead-routing-key") == "order.placed");
  CHECK(header(letters[0], "pillion-original-exchange") == "(none)");
}

TEST_CASE("a redrive that is killed between confirm and ack is applied once when it is repeated") {
  Scene scene("cut");
  scene.kill(3);
  scene.broken = false;
  const auto killed = dead(scene.world, "redrive", "cut", {"--all"}, "dead.redriven=kill@2");
  CHECK(killed.status == kKilled);
  CHECK(eventually(20s, [&] { return scene.letters() == 2; }));
  CHECK(eventually(20s, [&] { return scene.world.journal() == 2; }));
  CHECK(dead(scene.world, "redrive", "cut", {"--all"}).status == 0);
  CHECK(eventually(20s, [&] { return scene.world.journal() == 3; }));
  CHECK(eventually(20s, [&] { return scene.consumer->stats().duplicates == 1; }));
  CHECK(scene.world.journalIds() == 3);
}

TEST_CASE("redrive goes to this service's queue only") {
  Scene scene("one");
  const auto other = journalConsumer(scene.world, "two");
  other->start();
  scene.kill(1);
  CHECK(eventually(20s, [&] { return other->stats().applied == 1; }));
  scene.broken = false;
  CHECK(dead(scene.world, "redrive", "one", {"--all"}).status == 0);
  CHECK(eventually(20s, [&] { return scene.consumer->stats().applied == 1; }));
  CHECK(other->stats().delivered == 1);
}

TEST_CASE("letters that are not chosen stay, in their order") {
  Scene scene("orderly");
  const auto events = scene.kill(5);
  CHECK(dead(scene.world, "discard", "orderly", {"--id", events[2].id(), "--json"})
            .json()["discarded"] == 1);
  CHECK(eventually(20s, [&] { return scene.letters() == 4; }));
  const auto numbers = [&] {
    std::string text;
    for (const auto& id : scene.idsInOrder()) {
      for (std::size_t i = 0; i < events.size(); ++i) {
        if (events[i].id() == id) text += std::to_string(i + 1);
      }
    }
    return text;
  };
  CHECK(numbers() == "1245");
  CHECK(dead(scene.world, "discard", "orderly", {"--limit", "2"}).status == 0);
  CHECK(numbers() == "45");
}

TEST_CASE("letters are chosen by type, reason and age") {
  Scene scene("choosy");
  scene.kill(2);
  const auto count = [&](std::vector<std::string> arguments) {
    arguments.emplace_back("--json");
    return dead(scene.world, "list", "choosy", arguments).json()["letters"].size();
  };
  CHECK(count({"--type", "order.*"}) == 2);
  CHECK(count({"--type", "order"}) == 0);
  CHECK(count({"--reason", "rejected"}) == 2);
  CHECK(count({"--reason", "handler-failed"}) == 0);
  CHECK(count({"--older-than", "1h"}) == 0);
  CHECK(count({"--newer-than", "1h"}) == 2);
  CHECK(count({"--limit", "1"}) == 1);
  CHECK(count({"--id", "0197f22e-79b0-7cc3-98c4-dc0c0c07398f"}) == 0);
}

TEST_CASE("--dry-run counts and changes nothing") {
  Scene scene("careful");
  scene.kill(2);
  CHECK(dead(scene.world, "redrive", "careful", {"--all", "--dry-run", "--json"})
            .json()["redriven"] == 2);
  CHECK(dead(scene.world, "discard", "careful", {"--all", "--dry-run"}).text ==
        "dry run: 2 of 2 dead letters would be discarded\n");
  CHECK(eventually(20s, [&] { return scene.letters() == 2; }));
  CHECK(scene.consumer->stats().delivered == 2);
}

TEST_CASE("nothing is redriven or discarded without a choice, nor for a queue that is not there") {
  Scene scene("strict");
  for (const std::string verb : {"redrive", "discard"}) {
    const auto said = dead(scene.world, verb, "strict", {});
    CHECK(said.status == 2);
    CHECK(said.text.find("--all") != std::string::npos);
  }
  const auto wrong = dead(scene.world, "list", "nobody", {});
  CHECK(wrong.status == 2);
  CHECK(wrong.text.find("'nobody.events.dead' does not exist") != std::string::npos);
  CHECK(dead(scene.world, "list", "strict", {"--older-than", "soon"}).status == 2);
}

TEST_CASE("a redrive to a queue that is gone says so and keeps the letter") {
  Scene scene("gone");
  scene.kill(2);
  scene.consumer->stop();
  Servers::mq().deleteQueue("gone.events");
  const auto said = dead(scene.world, "redrive", "gone", {"--all"});
  CHECK(said.status == 2);
  CHECK(said.text.find("'gone.events' takes no message") != std::string::npos);
  CHECK(said.text.find("2 dead letters were refused") != std::string::npos);
  CHECK(eventually(20s, [&] { return scene.letters() == 2; }));
}

TEST_CASE("a letter that the broker refuses is named and kept, and those after it are redriven") {
  Scene scene("heavy");
  auto events = numberedEvents(3, "a");
  auto large = Event("order.placed", {{"number", 4}, {"text", std::string(200'000, 'x')}});
  events.insert(events.begin() + 1, large.setKey("a"));
  send(scene.world.exchange, events);
  REQUIRE(eventually(20s, [&] { return scene.letters() == 4; }));
  scene.broken = false;
  MessageLimit limit(100'000);
  const auto said = dead(scene.world, "redrive", "heavy", {"--all"});
  limit.set(MessageLimit::kMost);
  CAPTURE(said.text);
  CHECK(said.status == 2);
  CHECK(said.text.find("1 dead letters were refused") != std::string::npos);
  CHECK(said.text.find("'" + events[1].id() + "' stays where it is: ") != std::string::npos);
  CHECK(eventually(20s, [&] { return scene.world.journal() == 3; }));
  CHECK(scene.idsInOrder() == std::vector<std::string>{events[1].id()});
}

TEST_CASE(
    "looking at dead letters loses none to a policy's delivery limit, and keeps their order") {
  Scene scene("watched");
  std::vector<std::string> ids;
  for (const Event& event : scene.kill(3)) ids.push_back(event.id());
  const Policy policy(R"({"delivery-limit":3})");
  for (int look = 1; look <= 7; ++look) {
    CAPTURE(look);
    CHECK(scene.idsInOrder() == ids);
    CHECK(eventually(20s, [&] { return scene.letters() == 3; }));
  }
  const auto shown = dead(scene.world, "show", "watched", {"--id", ids[1], "--json"}).json()[0];
  CHECK(shown["reason"] == "rejected");
  CHECK(shown["error"] == "wrong warehouse");
  CHECK(shown["exchange"] == scene.world.exchange);
  CHECK(shown["data"] == "{\"number\":2}");
  scene.broken = false;
  CHECK(dead(scene.world, "redrive", "watched", {"--all"}).status == 0);
  CHECK(eventually(20s, [&] { return scene.world.journal() == 3; }));
}

TEST_CASE("letters of before are redriven to the partitions that there are now, and back") {
  const World world;
  std::atomic<bool> broken{true};
  const auto start = [&](int partitions) {
    auto options = world.consumerOptions();
    options.partitions = partitions;
    auto consumer = EventConsumer::create("grown", {"#"}, options);
    consumer->onEvent("#", [&](const Event& event, Transaction& tx) {
      if (broken) throw RejectEvent("broken");
      writeJournal(event, tx);
    });
    consumer->start();
    return consumer;
  };
  const auto kill = [&](long letters) {
    auto messages = std::vector{messageOf(numberedEvents(1)[0]), messageOf(numberedEvents(1)[0])};
    messages[1].headers.emplace_back(amqp::kLaneHeader, "1");
    send(world.exchange, messages);
    const std::string queue = "grown.events.dead";
    REQUIRE(eventually(20s, [&] { return Servers::mq().queueDepth(queue) == letters; }));
  };
  const auto redrive = [&] {
    broken = false;
    const auto said = dead(world, "redrive", "grown", {"--all"});
    CHECK(said.status == 0);
    CAPTURE(said.text);
  };
  {
    const auto single = start(0);
    kill(2);
  }
  {
    const auto parted = start(2);  // the old queue is still there, and nobody consumes from it
    redrive();
    CHECK(eventually(20s, [&] { return world.journal() == 2; }));
    broken = true;
    kill(2);
  }
  const auto undecided = dead(world, "redrive", "grown", {"--all"});
  CHECK(undecided.status == 2);
  CHECK(undecided.text.find("start the consumer, or delete") != std::string::npos);
  const auto single = start(0);
  redrive();
  CHECK(eventually(20s, [&] { return world.journal() == 4; }));
}

namespace {

/// The consumer dies of this message until the broker moves it.
void moveByBroker(const World& world, const std::string& service, const amqp::Message& message) {
  const std::string queue = service + ".events";
  auto options = world.consumerOptions();
  options.deliveryLimit = 1;
  {
    const auto first = journalConsumer(options, service);
    first->start();
  }
  send(world.exchange, std::vector<amqp::Message>{message});
  for (int death = 0; death < 4 && Servers::mq().queueDepth(queue) > 0; ++death) {
    ConsumerProcess victim(world, service, "delivery.claimed=kill@1", {"deliveryLimit=1"});
    CHECK(eventually(
        20s, [&] { return !victim.process().running() || Servers::mq().queueDepth(queue) == 0; }));
  }
  REQUIRE(eventually(20s, [&] { return Servers::mq().queueDepth(queue + ".dead") == 1; }));
}

}  // namespace

TEST_CASE("a letter that the broker moved after its delivery limit can be redriven") {
  const World world;
  moveByBroker(world, "limited", messageOf(numberedEvents(1)[0]));
  const auto letter = dead(world, "list", "limited", {"--json"}).json()["letters"][0];
  CHECK(letter["reason"] == "delivery-limit");
  CHECK(letter["queue"] == "limited.events");
  CHECK(dead(world, "redrive", "limited", {"--reason", "delivery-limit"}).status == 0);
  ConsumerProcess next(world, "limited", "", {"deliveryLimit=1"});
  CHECK(eventually(20s, [&] { return world.journal() == 1; }));
  next.stop();
}

TEST_CASE("a letter that the broker moved goes back to its own queue, whatever its headers say") {
  const World world;
  const World other;
  declareOnly(other, "victim");
  auto forged = messageOf(numberedEvents(1)[0]);
  for (const char* name : {"pillion-dead-queue", "x-first-death-queue", "x-death"}) {
    forged.headers.emplace_back(name, "victim.events");
  }
  forged.headers.emplace_back("pillion-dead-reason", "made-up");
  moveByBroker(world, "forged", forged);
  const auto letter = dead(world, "list", "forged", {"--json"}).json()["letters"][0];
  CHECK(letter["reason"] == "delivery-limit");
  CHECK(letter["queue"] == "forged.events");
  CHECK(dead(world, "redrive", "forged", {"--all"}).status == 0);
  CHECK(Servers::mq().queueDepth("victim.events") == 0);
  auto options = world.consumerOptions();
  options.deliveryLimit = 1;
  const auto consumer = journalConsumer(options, "forged");
  consumer->start();
  CHECK(eventually(20s, [&] { return world.journal() == 1; }));
}

TEST_CASE("a letter that names another service's queue is redriven to its own") {
  Scene scene("believing");
  const World other;
  declareOnly(other, "victim");
  scene.consumer->stop();
  amqp::Message letter = messageOf(numberedEvents(1)[0]);
  letter.headers.emplace_back("pillion-dead-queue", "victim.events");
  letter.routingKey = "believing.events.dead";
  amqp::Connection forger(brokerOptions("unused"), "test");
  forger.selectConfirms("");
  REQUIRE(amqp::publishAndWait(forger, letter, 10s));
  CHECK(dead(scene.world, "redrive", "believing", {"--all"}).status == 0);
  CHECK(Servers::mq().queueDepth("victim.events") == 0);
  CHECK(Servers::mq().queueDepth("believing.events") == 1);
}

TEST_CASE("a foreign event without a type keeps its routing key as type when the broker moved it") {
  const World world;
  auto foreign = messageOf(numberedEvents(1)[0]);
  foreign.type.clear();
  moveByBroker(world, "untyped", foreign);
  const auto letter = dead(world, "list", "untyped", {"--json"}).json()["letters"][0];
  CHECK(letter["type"] == "order.placed");
  CHECK(letter["routing_key"] == "order.placed");
  CHECK(letter["exchange"] == world.exchange);
  CHECK(dead(world, "redrive", "untyped", {"--all"}).status == 0);
  auto options = world.consumerOptions();
  options.deliveryLimit = 1;
  const auto consumer = EventConsumer::create("untyped", {"#"}, options);
  consumer->onEvent("order.placed", [](const Event& e, Transaction& tx) { writeJournal(e, tx); });
  consumer->start();
  CHECK(eventually(20s, [&] { return world.journal() == 1; }));
  CHECK(consumer->stats().ignored == 0);
}

TEST_CASE("letters of a queue of its own name, of a subscription and of partitions are redriven") {
  const World world;
  std::atomic<bool> broken{true};
  const auto start = [&](auto change) {
    auto options = world.consumerOptions();
    change(options);
    auto consumer = EventConsumer::create("named", {"#"}, options);
    consumer->onEvent("#", [&](const Event& event, Transaction& tx) {
      if (broken) throw RejectEvent("broken");
      writeJournal(event, tx);
    });
    consumer->start();
    return consumer;
  };
  const auto own = start([](auto& options) { options.queue = "a-name-of-its-own"; });
  const auto parted = start([](auto& options) {
    options.subscription = "parted";
    options.partitions = 3;
  });
  auto message = messageOf(numberedEvents(1)[0]);
  message.headers.emplace_back(amqp::kLaneHeader, "4");
  send(world.exchange, std::vector<amqp::Message>{message});
  for (const std::string queue : {"a-name-of-its-own", "named.parted"}) {
    CHECK(eventually(20s, [&] { return Servers::mq().queueDepth(queue + ".dead") == 1; }));
  }
  const std::vector<std::string> subscription{"--subscription", "parted", "--json"};
  CHECK(dead(world, "list", "named", subscription).json()["letters"][0]["queue"] ==
        "named.parted.p1");
  broken = false;
  const auto redriven =
      dead(world, "redrive", "", {"--queue", "a-name-of-its-own", "--all", "--json"}).json();
  CHECK(redriven["redriven"] == 1);
  CHECK(eventually(20s, [&] { return own->stats().applied == 1; }));
  CHECK(dead(world, "redrive", "named", {"--subscription", "parted", "--all"}).status == 0);
  CHECK(eventually(20s, [&] { return parted->stats().applied == 1; }));
  CHECK(own->stats().delivered == 2);
}

TEST_CASE("control characters of a letter do not reach the terminal, its JSON is whole") {
  Scene scene("dyed");
  auto painted = messageOf(numberedEvents(1)[0]);
  painted.messageId = "\x1b[31mred";
  painted.type = "order\xc2\x9bplaced";
  painted.headers.emplace_back("tint\x07", "\x1b[2J\x80");
  painted.body = "{\"a\":\n\"\x1b[0m\"}";
  send(scene.world.exchange, std::vector<amqp::Message>{painted});
  REQUIRE(eventually(20s, [&] { return scene.letters() == 1; }));
  const auto clean = [](const std::string& text) {
    return text.find_first_of("\x1b\x07\x80") == std::string::npos &&
           text.find("\xc2\x9b") == std::string::npos;
  };
  const auto listed = dead(scene.world, "list", "dyed", {}).text;
  CHECK(clean(listed));
  CHECK(listed.find("\\x1b[31mred") != std::string::npos);
  const auto shown = dead(scene.world, "show", "dyed", {"--id", painted.messageId}).text;
  CAPTURE(shown);
  CHECK(clean(shown));
  CHECK(shown.find("tint\\x07: \\x1b[2J\\x80") != std::string::npos);
  CHECK(shown.find("{\"a\":\n\"\\x1b[0m\"}") != std::string::npos);
  CHECK(dead(scene.world, "list", "dyed", {"--json"}).json()["letters"][0]["id"] ==
        painted.messageId);
}

TEST_CASE("a letter whose timestamp is in milliseconds is as old as it is") {
  Scene scene("metric");
  // As the broker moves them there itself: without a time of their death.
  std::vector<amqp::Message> letters;
  for (const std::uint64_t timestamp :
       {std::uint64_t{1'785'542'400'000}, std::uint64_t{18'000'000'000'000'000}, ~std::uint64_t{0},
        std::uint64_t{1'000'000'000}}) {
    letters.push_back(messageOf(numberedEvents(1)[0]));
    letters.back().headers.clear();
    letters.back().timestamp = timestamp;
    letters.back().routingKey = scene.consumer->queue() + ".dead";
  }
  send("", letters);
  REQUIRE(eventually(20s, [&] { return scene.letters() == 4; }));
  const auto said = dead(scene.world, "discard", "metric", {"--older-than", "3650d"});
  CHECK(said.text.find("1 of 4") != std::string::npos);  // that of 2001
  CHECK(scene.letters() == 3);
}

TEST_CASE("an event outside of the window is applied only when its redrive says so") {
  const World world;
  auto options = world.consumerOptions();
  options.dedupeWindow = 24h;
  const auto consumer = journalConsumer(options, "late");
  consumer->start();
  auto message = messageOf(numberedEvents(1)[0]);
  message.messageId = "018f0000-0000-7000-8000-000000000001";  // of 2024
  send(world.exchange, std::vector<amqp::Message>{message});
  REQUIRE(eventually(20s, [&] { return consumer->stats().deadLettered == 1; }));
  CHECK(dead(world, "redrive", "late", {"--all"}).status == 0);
  REQUIRE(eventually(20s, [&] { return consumer->stats().deadLettered == 2; }));
  CHECK(world.journal() == 0);
  CHECK(dead(world, "redrive", "late", {"--all", "--outside-window"}).status == 0);
  CHECK(eventually(20s, [&] { return world.journal() == 1; }));
}

}  // namespace pillion::test
