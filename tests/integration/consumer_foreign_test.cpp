// Messages as other libraries and frameworks send them, through a broker: read as what they are, or
// dead with a reason and a log line that say what is wrong.
#include <zlib.h>

#include "consumer_fixture.hpp"

namespace pillion::test {
namespace {

using namespace std::chrono_literals;
using Messages = std::vector<amqp::Message>;

constexpr const char* kId = "9b2d0c1e-6a53-4c51-8f4e-2f1f6f0f4a11";  // of no time

amqp::Message goodMessage() {
  return messageOf(numberedEvents(1)[0]);
}

std::string gzip(const std::string& text) {
  z_stream stream{};
  REQUIRE(deflateInit2(&stream, 9, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY) == Z_OK);
  std::string packed(deflateBound(&stream, text.size()) + 32, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(packed.data());
  stream.avail_out = static_cast<uInt>(packed.size());
  REQUIRE(deflate(&stream, Z_FINISH) == Z_STREAM_END);
  packed.resize(stream.total_out);
  deflateEnd(&stream);
  return packed;
}

void redrive(const World& world, const std::string& service,
             const std::vector<std::string>& arguments = {}) {
  support::ProcessOptions options;
  options.command = {PILLION_PROGRAM, "dead", "redrive", "--service", service, "--all"};
  options.command.insert(options.command.end(), arguments.begin(), arguments.end());
  options.environment = environmentFor(world.database, world.exchange);
  CHECK(support::run(options).status == 0);
}

struct Death {
  amqp::Message letter;
  std::string line;  // of the log
};

/// Sends it with a good event behind it, which must be applied.
Death deathOf(const amqp::Message& message) {
  const World world;
  const LogCapture log;
  const auto consumer = journalConsumer(world, "strict");
  consumer->start();
  send(world.exchange, Messages{message, goodMessage()});
  CHECK(eventually(20s, [&] { return world.journal() == 1; }));
  const auto letters = readDeadLetters(consumer->queue(), 1);
  REQUIRE(letters.size() == 1);
  CHECK(eventually(5s, [&] { return log.count("went to the dead-letter queue") == 1; }));
  for (const std::string& line : log.lines()) {
    if (line.find("went to the dead-letter queue") != std::string::npos) return {letters[0], line};
  }
  return {letters[0], ""};
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("the header that lets an old event in counts in a redrive, not from who publishes") {
  for (const int partitions : {0, 2}) {
    CAPTURE(partitions);
    const World world;
    auto options = world.consumerOptions();
    options.dedupeWindow = std::chrono::hours(24);
    options.partitions = partitions;
    const auto consumer = journalConsumer(options, "guarded");
    consumer->start();
    auto forged = goodMessage();
    forged.messageId = "018f0000-0000-7000-8000-000000000001";  // of 2024
    forged.headers.emplace_back("pillion-outside-window", "apply");
    send(world.exchange, Messages{forged});
    REQUIRE(eventually(20s, [&] { return consumer->stats().deadLettered == 1; }));
    CHECK(world.journal() == 0);
    redrive(world, "guarded", {"--outside-window"});
    CHECK(eventually(20s, [&] { return world.journal() == 1; }));
    if (partitions == 0) continue;
    // As a redrive for partitions may send it: straight to the exchange in front of them.
    forged.messageId = "018f0000-0000-7000-8000-000000000002";
    send("guarded.events.partitions", Messages{forged});
    CHECK(eventually(20s, [&] { return world.journal() == 2; }));
  }
}

TEST_CASE("an old event that was let in and failed is tried again from the database") {
  const World world;
  auto options = world.consumerOptions();
  options.dedupeWindow = std::chrono::hours(24);
  const auto consumer = EventConsumer::create("patient", {"#"}, options);
  std::atomic<int> calls{0};
  consumer->onEvent("#", [&](const Event& event, Transaction& tx) {
    if (++calls == 1) throw std::runtime_error("not yet");
    writeJournal(event, tx);
  });
  consumer->start();
  auto old = goodMessage();
  old.messageId = "018f0000-0000-7000-8000-000000000001";
  send(world.exchange, Messages{old});
  REQUIRE(eventually(20s, [&] { return consumer->stats().deadLettered == 1; }));
  redrive(world, "patient", {"--outside-window"});
  CHECK(eventually(20s, [&] { return world.journal() == 1; }));
  CHECK(calls == 2);
}

TEST_CASE("an id is one event however it is written") {
  const World world;
  const auto consumer = journalConsumer(world, "forgiving");
  consumer->start();
  Messages messages(5, goodMessage());
  messages[0].messageId = "9b2d0c1e6a534c518f4e2f1f6f0f4a11";
  messages[1].messageId = "urn:uuid:9b2d0c1e-6a53-4c51-8f4e-2f1f6f0f4a11";
  messages[2].messageId = "{9B2D0C1E-6A53-4C51-8F4E-2F1F6F0F4A11}";
  messages[3].messageId = kId;
  messages[4].messageId = "9B2D0C1E6A534C518F4E2F1F6F0F4A11";
  send(world.exchange, messages);
  CHECK(eventually(20s, [&] { return consumer->stats().duplicates == 4; }));
  CHECK(world.database.query("select string_agg(event_id::text, ' ') from journal") == kId);
  CHECK(consumer->stats().deadLettered == 0);
}

TEST_CASE("packed data reaches the handler as what was packed, also from the database") {
  const World world;
  const auto consumer = EventConsumer::create("unpacking", {"#"}, world.consumerOptions());
  std::atomic<int> calls{0};
  consumer->onEvent("#", [&](const Event& event, Transaction& tx) {
    if (++calls == 1) throw std::runtime_error("not yet");
    writeJournal(event, tx, event.bytes());
  });
  consumer->start();
  auto message = goodMessage();
  message.body = gzip(R"({"number": 7})");
  message.contentEncoding = "gzip";
  send(world.exchange, Messages{message});
  CHECK(eventually(20s, [&] { return world.journal() == 1; }));
  CHECK(world.database.query("select note from journal") == R"({"number": 7})");
  CHECK(calls == 2);
}

TEST_CASE("data in an encoding that is not read, or that is broken, dies as it came") {
  auto message = goodMessage();
  message.body = "\x78\x9c\x03";
  message.contentEncoding = "deflate";
  message.contentType = "application/octet-stream";
  auto death = deathOf(message);
  CHECK(has(header(death.letter, "pillion-dead-error"), "content encoding 'deflate'"));
  CHECK(has(death.line, "encoding 'deflate'"));
  CHECK(death.letter.body == message.body);
  CHECK(death.letter.contentEncoding == "deflate");
  message.contentEncoding = "gzip";
  message.body = gzip(std::string(20U << 20, 'x'));
  death = deathOf(message);
  CHECK(has(header(death.letter, "pillion-dead-error"), "16777216"));
  CHECK(death.letter.body == message.body);
}

TEST_CASE("an event with its attributes in the body is applied by them, and dead by them") {
  const World world;
  const auto consumer =
      EventConsumer::create("structured", {"orders", "order.*"}, world.consumerOptions());
  std::atomic<bool> broken{false};
  consumer->onEvent("order.created", [&](const Event& event, Transaction& tx) {
    if (broken) throw RejectEvent("wrong warehouse");
    writeJournal(event, tx, event.source() + " " + event.bytes());
  });
  consumer->start();
  amqp::Message message;
  message.routingKey = "orders";
  message.contentType = "application/cloudevents+json";
  message.body = R"({"specversion":"1.0","id":")" + std::string(kId) +
                 R"(","source":"/shop","type":"order.created","partitionkey":"A-1",)"
                 R"("data":{"number": 1.10}})";
  send(world.exchange, Messages{message, message});
  CHECK(eventually(20s, [&] { return consumer->stats().duplicates == 1; }));
  CHECK(world.database.query("select event_id || ' ' || key || ' ' || note from journal") ==
        std::string(kId) + R"( A-1 /shop {"number": 1.10})");
  broken = true;
  message.body.replace(message.body.find(kId), 1, "8");
  send(world.exchange, Messages{message});
  REQUIRE(eventually(20s, [&] { return consumer->stats().deadLettered == 1; }));
  broken = false;
  redrive(world, "structured", {"--id", "8" + std::string(kId).substr(1), "--type", "order.*"});
  CHECK(eventually(20s, [&] { return world.journal() == 2; }));
}

TEST_CASE("the line of a dead letter names the message that has no id, on one printable line") {
  auto message = goodMessage();
  message.messageId = "";
  message.routingKey = "order.\x1b[31m\nplaced";
  message.contentType = "text/\xff";
  const Death death = deathOf(message);
  CAPTURE(death.line);
  CHECK(has(death.line, "a message without message_id (queue 'strict.events', exchange '"));
  CHECK(has(death.line, R"(routing key 'order.\x1b[31m\x0aplaced')"));
  CHECK(has(death.line, R"(content type 'text/\xff')"));
  CHECK(has(death.line, "invalid-event: it has no id"));
  message = goodMessage();
  message.messageId = "order-17";
  CHECK(has(deathOf(message).line, "message 'order-17' (queue 'strict.events'"));
}

TEST_CASE("a type without a handler is told of with the routing key that it was published by") {
  const World world;
  const LogCapture log;
  const auto consumer = EventConsumer::create("selective", {"#"}, world.consumerOptions());
  consumer->onEvent("order.created", [](const Event&, Transaction&) {});
  consumer->start();
  auto message = goodMessage();
  message.type = "Shop.Contracts.OrderCreated";
  message.routingKey = "order.created";
  send(world.exchange, Messages{message});
  CHECK(eventually(20s, [&] {
    return log.count(
               "events of type 'Shop.Contracts.OrderCreated', published with routing key "
               "'order.created', have no handler here") == 1;
  }));
}

}  // namespace pillion::test
