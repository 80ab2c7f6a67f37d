#include <pillion/event.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <map>
#include <pillion/error.hpp>
#include <vector>

#include "event/event_check.hpp"
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

TEST_CASE("JSON data that has no form as text is refused, however deep it lies, and not changed") {
  using nlohmann::json;
  json partly = json::array();
  partly.push_back(json(json::value_t::discarded));
  const std::map<std::string, std::vector<json>> refused = {
      {"discarded", {json::parse("{", nullptr, false), {{"a", partly}}}},
      {"not finite",
       {std::nan(""),
        {{"a", {1, -std::numeric_limits<double>::infinity()}}},
        {{"x", std::numeric_limits<float>::infinity()}}}},
      {"binary", {json::binary({1, 2}), {{"a", json::binary({})}}}},
      {"UTF-8", {{{"\xff", 1}}, json::array({"caf\xe9"})}},
  };
  for (const auto& [problem, values] : refused) {
    for (const json& value : values) {
      CAPTURE(problem);
      const auto text = pillion::test::textThrown<InvalidEvent>([&] { Event("t", value); });
      CHECK(pillion::test::has(text, "'data'"));
      CHECK(pillion::test::has(text, problem));
    }
  }
  CHECK(Event("t", {{"big", 1.7976931348623157e308}}).bytes() ==
        R"({"big":1.7976931348623157e+308})");
}

TEST_CASE("JSON that is nested a million levels deep is refused, and ends nobody's stack") {
  constexpr std::size_t kDeep = 1'000'000;
  const std::string text = std::string(kDeep, '[') + std::string(kDeep, ']');
  const auto nested = [](std::size_t levels) {
    return nlohmann::json::parse(std::string(levels, '[') + std::string(levels, ']'));
  };
  CHECK_NOTHROW(Event("t", nested(256)));
  CHECK_THROWS_AS(Event("t", nested(257)), InvalidEvent);
  CHECK_THROWS_AS(Event("t", nested(kDeep)), InvalidEvent);
  const Event bytes = Event::ofBytes("t", text, "application/json");
  const Event copy = bytes;  // NOLINT(performance-unnecessary-copy-initialization)
  const auto refusal = pillion::test::textThrown<InvalidEvent>(
      [&] { pillion::checkEvent(copy, "service", pillion::EventLimits::kPayload); });
  CHECK(pillion::test::has(refusal, "deeper than 256"));
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

namespace {

using namespace std::chrono_literals;

Event::Time timeInId(const Event& event) {
  return pillion::timeOfEventId(event.id()).value();
}

/// All of an id but its 48 bits of time.
std::string restOfId(const Event& event) {
  return event.id().substr(13);
}

}  // namespace

TEST_CASE("the id of an event that is due in days carries the due time, and stays random") {
  for (Event event : {Event("t", 1), Event::ofBytes("t", "x", "text/plain")}) {
    const Event made = event;
    const auto due = std::chrono::floor<std::chrono::milliseconds>(event.time()) + 20 * 24h;
    event.setDeliverAt(due);
    CHECK(timeInId(event) == due);
    CHECK(restOfId(event) == restOfId(made));
    CHECK(pillion::isUuid(event.id()));
    event.setDeliverAt(due);
    CHECK(timeInId(event) == due);
  }
}

TEST_CASE("the id of an event that is due within half a day, or at once, is the constructor's") {
  Event event("t", 1);
  const Event made = event;
  const auto limit = timeInId(made) + 12h;
  CHECK(event.setDeliverAt(limit).id() == made.id());
  CHECK(event.setDeliverAt(limit - 20 * 24h).id() == made.id());
  CHECK(event.setDeliverAt(limit + 1ms).id() != made.id());
  CHECK(timeInId(event) == limit + 1ms);
}

TEST_CASE("a due time that is set again counts from the id that the constructor made") {
  Event event("t", 1);
  const Event made = event;
  event.setDeliverAt(made.time() + 400 * 24h);
  const Event copy = event;
  event.setDeliverAt(made.time() + 1h);
  CHECK(event.id() == made.id());
  event.setDeliverAt(made.time() + 400 * 24h);
  CHECK(event.id() == copy.id());
}

TEST_CASE("an id of another system is kept whatever is set first, the due time or the id") {
  const std::string id = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f";
  const auto due = std::chrono::system_clock::now() + 20 * 24h;
  CHECK(Event("t", 1).setId(id).setDeliverAt(due).id() == id);
  CHECK(Event("t", 1).setDeliverAt(due).setId(id).id() == id);
  CHECK(Event("t", 1).setDeliverAt(due).setId(id).setDeliverAt(due).id() == id);
}
