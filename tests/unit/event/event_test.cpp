#include <pillion/event.hpp>

#include <doctest/doctest.h>

#include <pillion/error.hpp>

#include "event/event_id.hpp"
#include "support/thrown.hpp"

using pillion::Event;
using pillion::InvalidEvent;

TEST_CASE("an event with JSON data has a fresh id, the present time and the JSON's text as bytes") {
  const auto before = std::chrono::system_clock::now();
  const Event event("product.created", {{"sku", "A-1"}, {"n", 3}});
  CHECK(event.type() == "product.created");
  CHECK(event.contentType() == "application/json");
  CHECK(event.isJson());
  CHECK(event.data().at("sku") == "A-1");
  CHECK(event.bytes() == R"({"n":3,"sku":"A-1"})");
  CHECK(pillion::isUuid(event.id()));
  CHECK(event.id()[14] == '7');
  CHECK(event.time() >= before);
  CHECK(event.time() <= std::chrono::system_clock::now());
  CHECK(event.source().empty());
  CHECK(event.key().empty());
}

TEST_CASE("two events have two ids, a copy has the same one") {
  const Event event("t", 1);
  const Event copy = event;  // NOLINT(performance-unnecessary-copy-initialization)
  CHECK(copy.id() == event.id());
  CHECK(Event("t", 1).id() != event.id());
  CHECK(copy.bytes() == event.bytes());
  CHECK(copy.data() == event.data());
}

TEST_CASE("JSON data that holds text which is not UTF-8 is an InvalidEvent naming data") {
  try {
    Event("t", {{"name", "\xff"}});
    FAIL("nothing was thrown");
  } catch (const InvalidEvent& error) {
    CHECK(error.field() == "data");
    CHECK_FALSE(error.retryable());
    CHECK_FALSE(pillion::test::has(error.what(), "\xff"));
  }
}

TEST_CASE("bytes of another content type travel as they are, and data() throws") {
  const std::string bytes("\0\xff\x01", 3);
  const Event event = Event::ofBytes("t", bytes, "application/octet-stream");
  CHECK(event.bytes() == bytes);
  CHECK_FALSE(event.isJson());
  const auto text = pillion::test::textThrown<InvalidEvent>([&] { (void)event.data(); });
  CHECK(pillion::test::has(text, "application/octet-stream"));
}

TEST_CASE("bytes of a JSON content type are untouched and can be read as data") {
  const Event event = Event::ofBytes("t", R"(  {"a" : 1.0 })", "application/json; charset=utf-8");
  CHECK(event.isJson());
  CHECK(event.bytes() == R"(  {"a" : 1.0 })");
  CHECK(event.data().at("a") == 1.0);
}

TEST_CASE("bytes of a JSON content type that are no JSON are kept, and data() throws") {
  const Event event = Event::ofBytes("t", "{", "application/json");
  CHECK_FALSE(event.isJson());
  CHECK(event.bytes() == "{");
  CHECK_THROWS_AS((void)event.data(), InvalidEvent);
}

TEST_CASE("setters chain, set their own field and nothing else") {
  Event event("t", nullptr);
  const auto time = Event::Time(std::chrono::seconds(1));
  event.setId("0123ABCD-89AB-4DEF-ABCD-EF0123456789")
      .setSource("source")
      .setKey("key")
      .setTime(time)
      .setCorrelationId("correlation")
      .setCausationId("causation")
      .setTrace("parent", "state")
      .setHeader("tenant", "acme")
      .setHeader("tenant", "other");
  CHECK(event.id() == "0123abcd-89ab-4def-abcd-ef0123456789");
  CHECK(event.source() == "source");
  CHECK(event.key() == "key");
  CHECK(event.time() == time);
  CHECK(event.correlationId() == "correlation");
  CHECK(event.causationId() == "causation");
  CHECK(event.traceparent() == "parent");
  CHECK(event.tracestate() == "state");
  CHECK(event.headers() == Event::Headers{{"tenant", "other"}});
  CHECK(event.type() == "t");
}

TEST_CASE("JSON content types are recognised whatever their case and parameters") {
  for (const std::string type :
       {"application/json", "Application/JSON", "application/json;charset=utf-8",
        "application/json ; v=1", "text/json", "application/cloudevents+json"}) {
    CAPTURE(type);
    CHECK(pillion::isJsonContentType(type));
  }
  for (const std::string type : {"", "json", "application/jsonx", "text/plain",
                                 "application/xml;a=+json", "application/json-seq"}) {
    CAPTURE(type);
    CHECK_FALSE(pillion::isJsonContentType(type));
  }
}
