#include "amqp/message.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <limits>

#include "event/event_check.hpp"
#include "event/timestamp.hpp"
#include "support/thrown.hpp"

using namespace pillion;
using namespace pillion::amqp;
using pillion::test::has;

namespace {

constexpr const char* kId = "0197f22e-79b0-7cc3-98c4-dc0c0c07398f";
constexpr const char* kParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

Row fullRow() {
  Row row;
  row.id = 7;
  row.lane = 3;
  row.eventId = kId;
  row.type = "product.created";
  row.source = "product-service";
  row.key = "A-1";
  row.time = "2026-01-31 23:59:59.123456";
  row.contentType = "application/json";
  row.correlationId = "corr";
  row.causationId = "cause";
  row.traceparent = kParent;
  row.tracestate = "a=b";
  row.headers = R"({"tenant":"acme","ü":"\"é"})";
  row.payload = R"({"sku":"A-1"})";
  return row;
}

Row smallRow() {
  Row row;
  row.eventId = kId;
  row.type = "t";
  row.source = "s";
  row.time = "2026-01-31 23:59:59";
  row.contentType = "text/plain";
  return row;
}

Message message(Row row) {
  auto result = messageFrom(std::move(row));
  REQUIRE(std::holds_alternative<Message>(result));
  return std::get<Message>(std::move(result));
}

Event event(const Message& message) {
  auto result = eventFrom(message);
  REQUIRE(std::holds_alternative<Event>(result));
  return std::get<Event>(std::move(result));
}

/// "" when it is an event after all.
Problem problemOf(const Message& message) {
  const auto result = eventFrom(message);
  const auto* problem = std::get_if<Problem>(&result);
  return problem != nullptr ? *problem : Problem{};
}

std::string reasonOf(Row row) {
  const auto result = messageFrom(std::move(row));
  const auto* problem = std::get_if<Problem>(&result);
  return problem != nullptr ? problem->reason : "";
}

std::string header(const Message& message, const std::string& name) {
  amqp::SentHeaders sent;
  const auto& headers = sent.of(message);
  CHECK(std::ranges::count(headers, name, &amqp::HeaderView::first) <= 1);
  for (const auto& [key, value] : headers) {
    if (key == name) return std::string(value);
  }
  return "(none)";
}

Message withBody(std::string body, std::string contentType = "application/json") {
  Message message;
  message.messageId = kId;
  message.type = "t";
  message.contentType = std::move(contentType);
  message.body = std::move(body);
  return message;
}

}  // namespace

TEST_CASE("a stored event fills the properties and headers of the mapping table") {
  const Message sent = message(fullRow());
  CHECK(sent.routingKey == "product.created");
  CHECK(sent.messageId == kId);
  CHECK(sent.type == "product.created");
  CHECK(sent.appId == "product-service");
  CHECK(sent.contentType == "application/json");
  CHECK(sent.correlationId == "corr");
  CHECK(sent.timestamp == 1769903999);
  CHECK(sent.body == R"({"sku":"A-1"})");
  CHECK(header(sent, "cloudEvents_specversion") == "1.0");
  CHECK(header(sent, "cloudEvents_id") == kId);
  CHECK(header(sent, "cloudEvents_type") == "product.created");
  CHECK(header(sent, "cloudEvents_source") == "product-service");
  CHECK(header(sent, "cloudEvents_time") == "2026-01-31T23:59:59.123456Z");
  CHECK(header(sent, "cloudEvents_partitionkey") == "A-1");
  CHECK(header(sent, "pillion-causation-id") == "cause");
  CHECK(header(sent, "traceparent") == kParent);
  CHECK(header(sent, "tracestate") == "a=b");
  CHECK(header(sent, "tenant") == "acme");
  CHECK(header(sent, "ü") == "\"é");
}

TEST_CASE("what a stored event does not have is not in its message") {
  const Message sent = message(smallRow());
  for (const std::string name :
       {"cloudEvents_partitionkey", "pillion-causation-id", "traceparent", "tracestate"}) {
    CHECK(header(sent, name) == "(none)");
  }
  CHECK(sent.correlationId.empty());
  amqp::SentHeaders headers;
  CHECK(headers.of(sent).size() == 6);
}

TEST_CASE("a stored event tells its outbox id on the way, and no received event knows it") {
  for (const std::int64_t id : {std::int64_t{1}, std::numeric_limits<std::int64_t>::max(),
                                std::numeric_limits<std::int64_t>::min()}) {
    Row row = fullRow();
    row.id = id;
    Message sent = message(std::move(row));
    CHECK(sent.attributes->outboxId == id);
    CHECK(header(sent, "pillion-outbox-id") == std::to_string(id));
    CHECK(isOfTheWay("pillion-outbox-id"));
    CHECK(isReservedHeader("pillion-outbox-id"));  // no publisher writes one of its own
    sent.headers.emplace_back("pillion-outbox-id", std::to_string(id));
    CHECK(event(sent).headers() == Event::Headers{{"tenant", "acme"}, {"ü", "\"é"}});
  }
}

TEST_CASE("the headers of the message before leave nothing in those of the next") {
  Row first = fullRow();
  first.id = 123'456;
  const Message long_ = message(std::move(first));
  Row second = smallRow();
  second.id = 7;
  const Message short_ = message(std::move(second));
  amqp::SentHeaders headers;
  headers.of(long_);
  const auto& sent = headers.of(short_);
  CHECK(sent.size() == 7);
  CHECK(std::ranges::find(sent, amqp::HeaderView{"pillion-outbox-id", "7"}) != sent.end());
}

TEST_CASE("a stored event arrives with every field that it was stored with") {
  const Event arrived = event(message(fullRow()));
  CHECK(arrived.id() == kId);
  CHECK(arrived.type() == "product.created");
  CHECK(arrived.source() == "product-service");
  CHECK(arrived.key() == "A-1");
  CHECK(toRfc3339(arrived.time()) == "2026-01-31T23:59:59.123456Z");
  CHECK(arrived.contentType() == "application/json");
  CHECK(arrived.correlationId() == "corr");
  CHECK(arrived.causationId() == "cause");
  CHECK(arrived.traceparent() == kParent);
  CHECK(arrived.tracestate() == "a=b");
  CHECK(arrived.headers() == Event::Headers{{"tenant", "acme"}, {"ü", "\"é"}});
  CHECK(arrived.data().at("sku") == "A-1");
  CHECK(arrived.bytes() == R"({"sku":"A-1"})");
}

TEST_CASE("bytes that are no JSON arrive untouched") {
  Row row = smallRow();
  row.contentType = "application/octet-stream";
  row.payload = std::string("\0\xff{[\"", 5);
  const Event arrived = event(message(row));
  CHECK(arrived.bytes() == row.payload);
  CHECK_FALSE(arrived.isJson());
  CHECK(arrived.contentType() == "application/octet-stream");
}

TEST_CASE("rows that no publisher writes are a Problem, not a message that breaks the connection") {
  for (std::string Row::*field : {&Row::type, &Row::source, &Row::key, &Row::contentType,
                                  &Row::correlationId, &Row::causationId}) {
    Row row = fullRow();
    row.*field = std::string(255, 'x');
    CHECK(reasonOf(row).empty());
    row.*field += 'x';
    CHECK(reasonOf(row) == "invalid");
  }
  for (const std::string headers :
       {"[]", "1", "null", "\"text\"", "{", "nonsense", R"({"a":1})", R"({"a":null})",
        R"({"a":{}})", R"({"":"v"})", R"({"x-death":"v"})", R"({"cloudEvents_id":"v"})",
        R"({"traceparent":"v"})", R"({"pillion-causation-id":"v"})"}) {
    CAPTURE(headers);
    Row row = fullRow();
    row.headers = headers;
    CHECK(reasonOf(row) == "invalid");
  }
}

TEST_CASE("a header table that is too large for a frame, or has a long name, is a Problem") {
  Row row = smallRow();
  row.headers = R"({")" + std::string(256, 'n') + R"(":"v"})";
  CHECK(reasonOf(row) == "invalid");
  row.headers =
      R"({"n":")" + std::string(EventLimits::kHeaders - 1 - kHeaderOverhead, 'v') + R"("})";
  CHECK(reasonOf(row).empty());
  row.headers = R"({"n":")" + std::string(EventLimits::kHeaders - kHeaderOverhead, 'v') + R"("})";
  CHECK(reasonOf(row) == "invalid");
}

TEST_CASE("a message needs an id, which is a UUID; the CloudEvents header will do") {
  Message bare = withBody("1");
  bare.messageId = "";
  CHECK(problemOf(bare).reason == "invalid-event");
  CHECK(has(problemOf(bare).detail, "message_id"));
  bare.headers.emplace_back("cloudEvents_id", kId);
  CHECK(event(bare).id() == kId);
  bare.messageId = "order-17";
  CHECK(problemOf(bare).reason == "invalid-event");
  CHECK(has(problemOf(bare).detail, "UUID"));
}

TEST_CASE("an id has one spelling, in whatever case it came") {
  Message upper = withBody("1");
  upper.messageId = "0197F22E-79B0-7CC3-98C4-DC0C0C07398F";
  CHECK(event(upper).id() == kId);
}

TEST_CASE("the type is the property, else the CloudEvents header, else the routing key") {
  Message received = withBody("1");
  received.routingKey = "key";
  received.headers.emplace_back("cloudEvents_type", "header");
  CHECK(event(received).type() == "t");
  received.type = "";
  CHECK(event(received).type() == "header");
  received.headers.clear();
  CHECK(event(received).type() == "key");
  received.routingKey = "";
  CHECK(problemOf(received).reason == "invalid-event");
}

TEST_CASE("CloudEvents headers are read with either prefix, the underscore first") {
  for (const std::string prefix : {"cloudEvents_", "cloudEvents:"}) {
    Message received = withBody("1");
    received.headers = {{prefix + "partitionkey", "k"},
                        {prefix + "source", "s"},
                        {prefix + "time", "2026-01-01T00:00:00.5+01:00"},
                        {prefix + "subject", "not ours"},
                        {"own", "header"}};
    const Event arrived = event(received);
    CHECK(arrived.key() == "k");
    CHECK(arrived.source() == "s");
    CHECK(toRfc3339(arrived.time()) == "2025-12-31T23:00:00.500000Z");
    CHECK(arrived.headers() == Event::Headers{{"own", "header"}});
  }
  Message both = withBody("1");
  both.headers = {{"cloudEvents:partitionkey", "colon"},
                  {"cloudEvents_partitionkey", "underscore"}};
  CHECK(event(both).key() == "underscore");
}

TEST_CASE("the time is the header's, else the property's whole seconds") {
  Message received = withBody("1");
  received.timestamp = 1'000;
  CHECK(toRfc3339(event(received).time()) == "1970-01-01T00:16:40.000000Z");
  received.headers.emplace_back("cloudEvents_time", "yesterday");
  CHECK(toRfc3339(event(received).time()) == "1970-01-01T00:16:40.000000Z");
}

TEST_CASE("a timestamp in milliseconds is the time that was meant") {
  Message received = withBody("1");
  received.timestamp = 1'785'542'400'000;
  CHECK(toRfc3339(event(received).time()) == "2026-08-01T00:00:00.000000Z");
  CHECK(timeOfTimestamp(1'785'542'400) == timeOfTimestamp(1'785'542'400'000));
  CHECK_FALSE(timeOfTimestamp(0));
  CHECK_FALSE(timeOfTimestamp(7'258'118'401'000));
  CHECK_FALSE(timeOfTimestamp(~std::uint64_t{0}));
}

TEST_CASE("a timestamp beyond what the clock can hold is not a time in the past") {
  Message received = withBody("1");
  for (const std::uint64_t seconds : {std::uint64_t{10'000'000'000}, ~std::uint64_t{0}}) {
    received.timestamp = seconds;
    CHECK(event(received).time() >= Event::Time{});
  }
}

TEST_CASE("a message without a content type is taken for JSON") {
  CHECK(event(withBody("{\"a\":1}", "")).data().at("a") == 1);
}

TEST_CASE("a body that is not the JSON it is said to be is a Problem without the body in it") {
  for (const std::string body : {"", "hush", "{\"hush\":", "\xff\xfe", "{\"a\":\"\xff\"}", "1 2"}) {
    CAPTURE(body);
    const Problem problem = problemOf(withBody(body));
    CHECK(problem.reason == "invalid-event");
    CHECK_FALSE(has(problem.detail, "hush"));
  }
}

TEST_CASE("JSON as deep as 256 levels is read, one level more is refused") {
  const auto nested = [](std::size_t depth) {
    return std::string(depth, '[') + std::string(depth, ']');
  };
  CHECK(problemOf(withBody(nested(256))).reason.empty());
  CHECK(problemOf(withBody(nested(257))).reason == "invalid-event");
  CHECK(problemOf(withBody("{\"a\":" + nested(256) + "}")).reason == "invalid-event");
}

TEST_CASE("brackets inside texts, and side by side, are no depth") {
  CHECK(problemOf(withBody("[\"" + std::string(1'000, '[') + "\"]")).reason.empty());
  CHECK(problemOf(withBody(R"(["\"[[[\\", ")" + std::string(1'000, '{') + "\"]")).reason.empty());
  std::string wide = "[";
  for (int i = 0; i < 1'000; ++i) wide += "[],";
  CHECK(problemOf(withBody(wide + "[]]")).reason.empty());
}

TEST_CASE(
    "a JSON bomb of depth 100,000 is refused at once, closed or not, whatever it is made of") {
  constexpr std::size_t kDepth = 100'000;
  std::string objects;
  for (std::size_t i = 0; i < kDepth; ++i) objects += "{\"a\":";
  const auto begin = std::chrono::steady_clock::now();
  for (const std::string& body :
       {std::string(kDepth, '['), std::string(kDepth, '[') + std::string(kDepth, ']'), objects}) {
    const Problem problem = problemOf(withBody(body));
    CHECK(problem.reason == "invalid-event");
    CHECK(has(problem.detail, "256"));
  }
  CHECK(std::chrono::steady_clock::now() - begin < std::chrono::milliseconds(100));
}

TEST_CASE("a deep text of another content type is only bytes") {
  CHECK(event(withBody(std::string(100'000, '['), "text/plain")).bytes().size() == 100'000);
}

TEST_CASE("an expiry travels as the CloudEvents attribute expirytime, and comes back") {
  Row row;
  row.eventId = "01990000-0000-7000-8000-0123456789ab";
  row.type = "a.b";
  row.source = "s";
  row.time = "2026-01-31 23:59:59.5";
  row.contentType = "text/plain";
  row.expiresAt = "2026-02-01 00:00:00.25";
  const auto message = std::get<amqp::Message>(amqp::messageFrom(std::move(row)));
  amqp::SentHeaders sent;
  const auto& headers = sent.of(message);
  const amqp::HeaderView expected{"cloudEvents_expirytime", "2026-02-01T00:00:00.25Z"};
  CHECK(std::ranges::find(headers, expected) != headers.end());
  const Event event = std::get<Event>(amqp::eventFrom(message));
  REQUIRE(event.expiresAt().has_value());
  CHECK(*event.expiresAt() - event.time() == std::chrono::milliseconds(750));
  CHECK_FALSE(event.deliverAt().has_value());
}
