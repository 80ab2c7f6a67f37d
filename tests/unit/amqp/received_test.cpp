// Messages as other libraries send them.
#include <doctest/doctest.h>
#include <zlib.h>

#include <pillion/error.hpp>

#include "amqp/message.hpp"
#include "event/timestamp.hpp"
#include "support/thrown.hpp"

using namespace pillion;
using namespace pillion::amqp;
using pillion::test::has;

namespace {

constexpr const char* kId = "0197f22e-79b0-7cc3-98c4-dc0c0c07398f";
constexpr const char* kParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

Event event(const Message& message) {
  const auto result = eventFrom(message);
  const auto* problem = std::get_if<Problem>(&result);
  REQUIRE_MESSAGE(problem == nullptr, problem->detail);
  return std::get<Event>(result);
}

/// "" when it is an event after all.
std::string refusalOf(const Message& message) {
  const auto result = eventFrom(message);
  const auto* problem = std::get_if<Problem>(&result);
  if (problem == nullptr) return "";
  CHECK(problem->reason == "invalid-event");
  return problem->detail;
}

Message plain(std::string body = "1", std::string contentType = "application/json") {
  Message message;
  message.messageId = kId;
  message.type = "order.created";
  message.routingKey = "order.created";
  message.contentType = std::move(contentType);
  message.body = std::move(body);
  return message;
}

std::string gzip(const std::string& text) {
  z_stream stream{};
  REQUIRE(deflateInit2(&stream, 1, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY) == Z_OK);
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

Message encoded(const std::string& encoding, const std::string& body,
                const std::string& contentType = "application/json") {
  Message message = plain(body, contentType);
  message.contentEncoding = encoding;
  return message;
}

/// As an SDK sends it in structured mode: nothing but the content type is outside of the body.
Message structured(const std::string& body) {
  Message message;
  message.contentType = "application/cloudevents+json; charset=UTF-8";
  message.routingKey = "orders";
  message.body = body;
  return message;
}

std::string envelope(const std::string& more, const std::string& id = kId) {
  return R"({"specversion":"1.0","id":")" + id + R"(","source":"/shop","type":"order.created")" +
         more + "}";
}

}  // namespace

TEST_CASE("an id is the same one however a library writes a UUID") {
  for (const std::string id :
       {"0197f22e79b07cc398c4dc0c0c07398f", "0197F22E79B07CC398C4DC0C0C07398F",
        "urn:uuid:0197f22e-79b0-7cc3-98c4-dc0c0c07398f",
        "URN:UUID:0197F22E-79B0-7CC3-98C4-DC0C0C07398F", "{0197f22e-79b0-7cc3-98c4-dc0c0c07398f}",
        "urn:uuid:0197f22e79b07cc398c4dc0c0c07398f", "{0197F22E79B07CC398C4DC0C0C07398F}"}) {
    CAPTURE(id);
    Message message = plain();
    message.messageId = id;
    CHECK(event(message).id() == kId);
    message.messageId = "";
    message.headers = {{"cloudEvents_id", id}};
    CHECK(event(message).id() == kId);
  }
}

TEST_CASE("an id that is no UUID is refused, and shown shortened and printable") {
  for (const std::string id : {"order-17", "urn:uuid:", "{}", "{0197f22e79b07cc398c4dc0c0c07398f",
                               "0197f22e79b07cc398c4dc0c0c07398", "urn:uuid:order-17",
                               "0197f22e-79b07cc3-98c4-dc0c0c07398f"}) {
    CAPTURE(id);
    Message message = plain();
    message.messageId = id;
    CHECK(has(refusalOf(message), "message_id '" + id + "' is not the text of a UUID"));
  }
  Message message = plain();
  message.messageId = "\x1b[2J\n" + std::string(200, 'x');
  const std::string refusal = refusalOf(message);
  CHECK(has(refusal, "'\\x1b[2J\\x0axxx"));
  CHECK(has(refusal, "(205 bytes)"));
}

TEST_CASE("a packed body is the data that was packed, and the message stays as it came") {
  const std::string body = R"({"sku": "A-1", "price": 1.10})";
  for (const std::string encoding : {"gzip", "x-gzip", "GZIP", "X-Gzip", " gzip "}) {
    CAPTURE(encoding);
    const Message message = encoded(encoding, gzip(body));
    CHECK(event(message).bytes() == body);
    CHECK(event(message).data().at("sku") == "A-1");
    CHECK(message.body == gzip(body));
  }
  const std::string bytes("\0\xff{[", 4);
  CHECK(event(encoded("gzip", gzip(bytes), "application/octet-stream")).bytes() == bytes);
  CHECK(event(encoded("gzip", gzip("[1,") + gzip("2]"))).bytes() == "[1,2]");  // RFC 1952, 2.2
  CHECK(event(encoded("gzip", gzip(""), "text/plain")).bytes().empty());
}

TEST_CASE("a body that is not the gzip it is said to be is refused, and the encoding is named") {
  const std::string whole = gzip(std::string(1'000, 'x'));
  std::string damaged = whole;
  damaged[damaged.size() - 6] ^= 1;  // of the checksum
  for (const std::string& body :
       {std::string(), whole.substr(0, whole.size() - 1), whole.substr(0, 5), damaged,
        std::string(R"({"a":1})"), whole + "rest", whole + whole.substr(0, 12)}) {
    CAPTURE(body.size());
    CHECK(has(refusalOf(encoded("gzip", body, "text/plain")), "content encoding 'gzip'"));
  }
}

TEST_CASE("a packed body may hold as much as one that is not, and is not inflated any further") {
  constexpr std::size_t kMost = EventLimits::kPayload;
  CHECK(event(encoded("gzip", gzip(std::string(kMost, 'x')), "text/plain")).bytes().size() ==
        kMost);
  for (const std::size_t size : {kMost + 1, 64 * kMost}) {
    const auto message = encoded("gzip", gzip(std::string(size, 'x')), "text/plain");
    CHECK(has(refusalOf(message), "more than 16777216 bytes"));
  }
  const std::string deep = gzip(std::string(300, '[') + std::string(300, ']'));
  CHECK(has(refusalOf(encoded("gzip", deep)), "nested"));
}

TEST_CASE("what libraries write for no encoding is none, and any other is refused by name") {
  for (const std::string none :
       {"", "identity", "IDENTITY", "utf-8", "UTF-8", "us-ascii", "binary", "8bit"}) {
    CAPTURE(none);
    CHECK(event(encoded(none, R"({"a":1})")).data().at("a") == 1);
  }
  for (const std::string other :
       {"deflate", "br", "zstd", "gzip, gzip", "base64", "utf-16", "\x1bx"}) {
    CAPTURE(other);
    const std::string shown = other[0] == '\x1b' ? R"(\x1bx)" : other;
    // A handler of bytes could not see it, either.
    for (const std::string contentType : {"application/json", "application/octet-stream"}) {
      CHECK(has(refusalOf(encoded(other, "1", contentType)), "content encoding '" + shown + "'"));
    }
  }
}

TEST_CASE(
    "CloudEvents headers are read with the prefixes that frameworks write beside the binding's") {
  for (const std::string prefix : {"ce-", "ce_", ""}) {
    CAPTURE(prefix);
    Message message;
    message.routingKey = "orders";
    message.body = "1";
    message.headers = {{prefix + "id", kId},
                       {prefix + "type", "order.created"},
                       {prefix + "source", "/shop"},
                       {prefix + "partitionkey", "A-1"},
                       {prefix + "time", "2026-01-01T00:00:00Z"},
                       {prefix + "datacontenttype", "text/plain"}};
    CHECK(has(refusalOf(message), "no id"));  // names that anybody may use for something else
    message.headers.emplace_back(prefix + "specversion", "1.0");
    const Event arrived = event(message);
    CHECK(arrived.id() == kId);
    CHECK(arrived.type() == "order.created");
    CHECK(arrived.source() == "/shop");
    CHECK(arrived.key() == "A-1");
    CHECK(arrived.contentType() == "text/plain");
    CHECK(toRfc3339(arrived.time()) == "2026-01-01T00:00:00.000000Z");
    message.headers.emplace_back("cloudEvents_type", "the.binding");
    message.headers.emplace_back("cloudEvents:source", "/binding");
    CHECK(event(message).type() == "the.binding");
    CHECK(event(message).source() == "/binding");
  }
}

TEST_CASE("an event that is whole in the body is the event that its attributes say") {
  const Event arrived = event(structured(envelope(
      R"( , "time" : "2026-01-31T23:59:59.5+01:00", "partitionkey": "A-1", "subject": "x",
          "expirytime": "2026-02-01T00:00:00Z", "tracestate": "a=b", "traceparent": ")" +
      std::string(kParent) + R"(", "datacontenttype": "application/json", "ext": 7,
          "data": {"a" : [1.10, "}\"", {"deep": "\u00fc"}]} )")));
  CHECK(arrived.id() == kId);
  CHECK(arrived.type() == "order.created");
  CHECK(arrived.source() == "/shop");
  CHECK(arrived.key() == "A-1");
  CHECK(arrived.contentType() == "application/json");
  CHECK(toRfc3339(arrived.time()) == "2026-01-31T22:59:59.500000Z");
  CHECK(toRfc3339(arrived.expiresAt().value()) == "2026-02-01T00:00:00.000000Z");
  CHECK(arrived.traceparent() == kParent);
  CHECK(arrived.tracestate() == "a=b");
  CHECK(arrived.bytes() == R"({"a" : [1.10, "}\"", {"deep": "\u00fc"}]})");  // not written anew
  CHECK(arrived.data().at("a").at(1) == "}\"");
}

TEST_CASE("the attributes of an envelope count, and not what stands around it") {
  Message message = structured(envelope(R"(,"data":1)", "urn:uuid:" + std::string(kId)));
  message.messageId = "1b2d0c1e-6a53-4c51-8f4e-2f1f6f0f4a12";
  message.type = "Shop.OrderCreated";
  message.appId = "gateway";
  message.correlationId = "correlation";
  message.timestamp = 1'000;
  message.headers = {{"cloudEvents_partitionkey", "header"}, {"tenant", "acme"}};
  const Event arrived = event(message);
  CHECK(arrived.id() == kId);
  CHECK(arrived.type() == "order.created");
  CHECK(arrived.source() == "/shop");
  CHECK(arrived.key().empty());
  CHECK(arrived.correlationId() == "correlation");
  CHECK(toRfc3339(arrived.time()) == "1970-01-01T00:16:40.000000Z");
  CHECK(arrived.headers() == Event::Headers{{"tenant", "acme"}});
  const auto identity = std::get<Identity>(identityOf(message));
  CHECK(identity.id == kId);
  CHECK(identity.type == "order.created");
}

TEST_CASE("an envelope's data is JSON, a text, bytes or nothing, by what it says of itself") {
  const auto data = [](const std::string& more) { return event(structured(envelope(more))); };
  CHECK(data(R"(,"data":"text")").bytes() == R"("text")");
  CHECK(data(R"(,"data":null)").bytes() == "null");
  CHECK(data(R"(,"data":"<a/>","datacontenttype":"text/xml")").bytes() == "<a/>");
  CHECK(data(R"(,"data":"<a/>","datacontenttype":"text/xml")").contentType() == "text/xml");
  CHECK(data(R"(,"data_base64":"AP97","datacontenttype":"image/png")").bytes() ==
        std::string("\0\xff{", 3));
  CHECK(data(R"(,"data_base64":"eyJhIjoxfQ==")").data().at("a") == 1);
  CHECK(data(R"(,"data_base64":null,"data":[])").bytes() == "[]");
  CHECK(data("").bytes().empty());
  CHECK(data(R"(,"datacontenttype":"application/json")").bytes().empty());
  CHECK_FALSE(data("").isJson());
}

TEST_CASE("an envelope that is none, or not whole, is refused by what is wrong with it") {
  const auto refused = [](const std::string& body) { return refusalOf(structured(body)); };
  const std::string id = kId;
  CHECK(has(refused(""), "empty"));
  CHECK(has(refused("{\"hush\": tru}"), "no JSON at byte"));
  CHECK_FALSE(has(refused("{\"hush\": tru}"), "hush"));
  CHECK(has(refused("[" + envelope("") + "]"), "no JSON object"));
  CHECK(has(refused(R"({"specversion":"1.0","source":"s","type":"t"})"), "no id"));
  CHECK(has(refused(envelope("", "A234-1234-1234")), "'A234-1234-1234' is not the text of a UUID"));
  CHECK(has(refused(R"({"specversion":"1.0","source":"s","id":")" + id + "\",\"type\":7}"),
            "type is not a JSON string"));
  CHECK(has(refused(R"({"specversion":"0.3","source":"s","type":"t","id":")" + id + "\"}"),
            "specversion is '0.3'"));
  CHECK(has(refused(envelope(R"(,"data":1,"data_base64":"AA==")")), "data twice"));
  CHECK(has(refused(envelope(R"(,"typ\u0065":"other")")), "'type' twice"));
  CHECK(has(refused(envelope(R"(,"data_base64":"A?==")")), "no base64"));
  CHECK(has(refused(envelope(R"(,"data_base64":7)")), "data_base64 is not a JSON string"));
  CHECK(has(refused(envelope(R"(,"data":{},"datacontenttype":"text/xml")")), "'text/xml'"));
  CHECK(has(refused(envelope(R"(,"data":{"a":1,"a":2})")), "twice"));
  CHECK(has(refused(envelope(",\"data\":" + std::string(300, '[') + std::string(300, ']'))),
            "nested"));
  CHECK(has(refused(envelope(",\"partitionkey\":\"" + std::string(256, 'k') + "\"")),
            "key is 256 bytes"));
}

TEST_CASE("an envelope may be packed, and what the broker's thread asks of it is the same") {
  Message message = structured(gzip(envelope(R"(,"data":{"a":1})")));
  message.contentEncoding = "gzip";
  CHECK(std::get<Identity>(identityOf(message)).id == kId);
  CHECK(event(message).data().at("a") == 1);
  message.contentEncoding = "br";
  CHECK(has(refusalOf(message), "'br'"));
  CHECK(std::holds_alternative<Problem>(identityOf(message)));
}

TEST_CASE("batches and other formats of CloudEvents are refused by name, plain types are not") {
  Message message = plain("[]", "application/cloudevents-batch+json; charset=utf-8");
  CHECK(has(refusalOf(message), "batches"));
  message.contentType = "application/CloudEvents+avro";
  CHECK(has(refusalOf(message), "'application/CloudEvents+avro'"));
  message.contentType = "application/cloudeventsish";
  CHECK(event(message).bytes() == "[]");
}

TEST_CASE(
    "envelopes of other frameworks are not taken apart, and the refusal says whose they are") {
  Message message = plain(R"({"messageId":"…","message":{}})", "application/vnd.masstransit+json");
  message.type = message.routingKey = "";
  CHECK(has(refusalOf(message), "envelope of MassTransit"));
  message = plain();
  message.messageId = "";
  message.headers = {{"NServiceBus.EnclosedMessageTypes", "Shop.OrderCreated, Shop"}};
  CHECK(has(refusalOf(message), "envelope of NServiceBus"));
}

TEST_CASE("the type that RabbitMQ writes for an AMQP 1.0 sender says nothing") {
  Message message = plain();
  message.type = "binary";
  CHECK(event(message).type() == "binary");  // of an AMQP 0-9-1 sender it is what it says
  message.headers = {{"x-amqp-1.0-properties", std::string("\0Ss\xc0", 4)}};
  CHECK(event(message).type() == "order.created");
  message.headers.emplace_back("cloudEvents:type", "order.paid");
  CHECK(event(message).type() == "order.paid");
  message.type = "amqp-1.0";
  CHECK(has(refusalOf(message), "AMQP 1.0 sections"));
}

TEST_CASE("a message without body and content type is an event without data") {
  const Event arrived = event(plain("", ""));
  CHECK(arrived.bytes().empty());
  CHECK(arrived.contentType().empty());
  CHECK_FALSE(arrived.isJson());
  CHECK_THROWS_AS((void)arrived.data(), InvalidEvent);
  CHECK(has(refusalOf(plain("", "application/json")), "empty"));
  CHECK(event(plain("", "text/plain")).contentType() == "text/plain");
}

TEST_CASE("an integer that data() would round is in bytes(), and data() says so") {
  for (const std::string number :
       {"18446744073709551616", "-9223372036854775809", "123456789012345678901234567890"}) {
    CAPTURE(number);
    const Event arrived = event(plain("{\"a\": [" + number + "]}"));
    CHECK(arrived.bytes() == "{\"a\": [" + number + "]}");
    CHECK_FALSE(arrived.isJson());
    const auto text = test::textThrown<InvalidEvent>([&] { (void)arrived.data(); });
    CHECK(has(text, "64 bits"));
    CHECK(has(refusalOf(plain("{\"a\":" + number + ",\"a\":1}")), "twice"));
    CHECK(has(refusalOf(plain("{\"a\":" + number)), "no JSON"));
  }
  for (const std::string number :
       {"18446744073709551615", "-9223372036854775808", "0.12345678901234567890123",
        "\"123456789012345678901234567890\"", "12345678901234567890e3"}) {
    CAPTURE(number);
    CHECK(event(plain("[" + number + "]")).isJson());
  }
  CHECK(event(plain("[18446744073709551615]")).data().at(0) == 18446744073709551615U);
}
