#include "event/event_check.hpp"

#include <doctest/doctest.h>

#include <functional>
#include <pillion/error.hpp>

#include "support/thrown.hpp"

using namespace pillion;

namespace {

constexpr std::size_t kMost = EventLimits::kPayload;

void check(const Event& event) {
  checkEvent(event, "service", kMost);
}

/// "" when the event is in order.
std::string fieldRefused(const Event& event, const std::string& source = "service") {
  try {
    checkEvent(event, source, kMost);
    return "";
  } catch (const InvalidEvent& error) {
    CHECK(test::has(error.what(), "'" + error.field() + "'"));
    return error.field();
  }
}

Event valid() {
  return {"product.created", {{"sku", "A"}}};
}

using Change = std::function<void(Event&, std::string)>;

/// 255 bytes pass; 256 are refused with the field's name and both numbers.
void checkShortText(const std::string& field, const Change& change) {
  CAPTURE(field);
  Event event = valid();
  change(event, std::string(255, 'x'));
  CHECK(fieldRefused(event).empty());
  change(event, std::string(256, 'x'));
  const auto text = test::textThrown<InvalidEvent>([&] { check(event); });
  CHECK(test::has(text, "'" + field + "'"));
  CHECK(test::has(text, "256"));
  CHECK(test::has(text, "255"));
  change(event, "caf\xe9");
  CHECK(fieldRefused(event) == field);
  change(event, std::string("a\0b", 3));
  CHECK(fieldRefused(event) == field);
}

std::string fieldOfTrace(const std::string& traceparent) {
  Event event = valid();
  event.setTrace(traceparent);
  return fieldRefused(event);
}

}  // namespace

TEST_CASE("an event as the constructor makes it is in order") {
  CHECK(fieldRefused(valid()).empty());
  CHECK(fieldRefused(Event::ofBytes("t", "", "text/plain")).empty());
}

TEST_CASE("short texts hold 255 bytes of UTF-8 and not one more") {
  checkShortText("key", [](Event& e, std::string v) { e.setKey(std::move(v)); });
  checkShortText("correlationId",
                 [](Event& e, std::string v) { e.setCorrelationId(std::move(v)); });
  checkShortText("causationId", [](Event& e, std::string v) { e.setCausationId(std::move(v)); });
  checkShortText("type", [](Event& e, std::string v) { e = Event(std::move(v), 1); });
  checkShortText("contentType",
                 [](Event& e, std::string v) { e = Event::ofBytes("t", "", std::move(v)); });
}

TEST_CASE("the limit counts bytes, not characters") {
  std::string key;
  for (int i = 0; i < 128; ++i) key += "é";
  CHECK(fieldRefused(valid().setKey(key)) == "key");
  CHECK(fieldRefused(valid().setKey(key.substr(2))).empty());
}

TEST_CASE("the source is checked as it will be written") {
  CHECK(fieldRefused(valid(), std::string(255, 's')).empty());
  CHECK(fieldRefused(valid(), std::string(256, 's')) == "source");
  CHECK(fieldRefused(valid(), "") == "source");
  CHECK(fieldRefused(valid(), "\xc0\x80") == "source");
}

TEST_CASE("type and content type must be there") {
  CHECK(fieldRefused(Event("", 1)) == "type");
  CHECK(fieldRefused(Event::ofBytes("t", "", "")) == "contentType");
}

TEST_CASE("a type is a routing key: no blanks, control characters or wildcards") {
  for (const std::string type : {"a b", "a.*", "#", "a\tb", "a\n", "a\x7f", " a"}) {
    CAPTURE(type);
    CHECK(fieldRefused(Event(type, 1)) == "type");
  }
  CHECK(fieldRefused(Event("größe.geändert-1_2", 1)).empty());
}

TEST_CASE("an id must be the text of a UUID of any version") {
  CHECK(fieldRefused(valid().setId("not-a-uuid")) == "id");
  CHECK(fieldRefused(valid().setId("")) == "id");
  CHECK(fieldRefused(valid().setId("0123ABCD-89AB-4DEF-ABCD-EF0123456789")).empty());
}

TEST_CASE("a payload is held to the limit that is given") {
  const auto event = Event::ofBytes("t", std::string(100, 'x'), "text/plain");
  CHECK_NOTHROW(checkEvent(event, "s", 100));
  const auto text = test::textThrown<InvalidEvent>([&] { checkEvent(event, "s", 99); });
  CHECK(test::has(text, "'data'"));
  CHECK(test::has(text, "100"));
  CHECK(test::has(text, "99"));
}

TEST_CASE("a payload of 16 MiB passes and one byte more does not") {
  std::string bytes(kMost, 'x');
  CHECK(fieldRefused(Event::ofBytes("t", bytes, "text/plain")).empty());
  bytes += 'x';
  CHECK(fieldRefused(Event::ofBytes("t", std::move(bytes), "text/plain")) == "data");
}

TEST_CASE("header names have 1 to 255 bytes of UTF-8") {
  CHECK(fieldRefused(valid().setHeader(std::string(255, 'n'), "v")).empty());
  const Event tooLong = valid().setHeader(std::string(256, 'n'), "v");
  const auto text = test::textThrown<InvalidEvent>([&] { check(tooLong); });
  CHECK(test::has(text, "headers"));
  CHECK(test::has(text, "256"));
  CHECK(test::has(text, "255"));
  CHECK(fieldRefused(valid().setHeader("", "v")) == "headers");
  CHECK_FALSE(fieldRefused(valid().setHeader("\xff", "v")).empty());
}

TEST_CASE("header values are UTF-8, and a refused one is not in the message") {
  const Event event = valid().setHeader("name", "secret\xff");
  const auto text = test::textThrown<InvalidEvent>([&] { check(event); });
  CHECK(test::has(text, "name"));
  CHECK_FALSE(test::has(text, "secret"));
  CHECK_FALSE(fieldRefused(valid().setHeader("n", std::string("a\0", 2))).empty());
}

TEST_CASE("all headers together take 64 KiB as they are encoded and not one byte more") {
  Event event = valid();
  const std::string half(32'768 - 1 - kHeaderOverhead, 'x');
  event.setHeader("a", half).setHeader("b", half);
  CHECK(fieldRefused(event).empty());
  event.setHeader("b", half + 'x');
  const auto text = test::textThrown<InvalidEvent>([&] { check(event); });
  CHECK(test::has(text, "'headers'"));
  CHECK(test::has(text, "65537"));
  CHECK(test::has(text, "65536"));
}

TEST_CASE("very many small headers are refused by what they take on the wire") {
  Event event = valid();
  for (int i = 0; i < 10'000; ++i) event.setHeader("h" + std::to_string(i), "");
  CHECK(fieldRefused(event) == "headers");
}

TEST_CASE("bytes that are said to be JSON must be JSON of at most 256 levels") {
  const auto json = [](std::string bytes) {
    return Event::ofBytes("t", std::move(bytes), "application/json");
  };
  CHECK(fieldRefused(json("[1]")).empty());
  CHECK(fieldRefused(json("")) == "data");
  CHECK(fieldRefused(json("[")) == "data");
  CHECK(fieldRefused(json(std::string(256, '[') + std::string(256, ']'))).empty());
  CHECK(fieldRefused(json(std::string(257, '[') + std::string(257, ']'))) == "data");
  CHECK(fieldRefused(Event::ofBytes("t", "[", "text/plain")).empty());
  nlohmann::json deep = 1;
  for (int i = 0; i < 256; ++i) deep = nlohmann::json::array({deep});
  CHECK(fieldRefused(Event("t", deep)).empty());
  CHECK_THROWS_AS(Event("t", nlohmann::json::array({deep})), InvalidEvent);
}

TEST_CASE("header names that the broker, CloudEvents or Pillion use are refused") {
  for (const std::string name :
       {"x-", "x-death", "cloudEvents_id", "cloudEvents:id", "cloudEvents", "pillion-causation-id",
        "traceparent", "tracestate", "CC", "BCC"}) {
    CAPTURE(name);
    CHECK(isReservedHeader(name));
    CHECK(fieldRefused(valid().setHeader(name, "v")) == "headers");
  }
  for (const std::string name :
       {"x", "ax-b", "tenant", "cloudevents", "pillion", "traceparent2", "X-a"}) {
    CAPTURE(name);
    CHECK_FALSE(isReservedHeader(name));
    CHECK(fieldRefused(valid().setHeader(name, "v")).empty());
  }
}

TEST_CASE("a traceparent has the form of W3C Trace Context or is empty") {
  const std::string good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  CHECK(fieldOfTrace("").empty());
  CHECK(fieldOfTrace(good).empty());
  std::string upper = good;
  upper[4] = 'A';
  CHECK(fieldOfTrace(upper) == "traceparent");
  CHECK(fieldOfTrace(good + "0") == "traceparent");
  CHECK(fieldOfTrace(good.substr(1)) == "traceparent");
  CHECK(fieldOfTrace("x") == "traceparent");
  for (const std::size_t dash : {2U, 35U, 52U}) {
    std::string moved = good;
    moved[dash] = '0';
    CHECK(fieldOfTrace(moved) == "traceparent");
  }
  for (const std::size_t at : {0U, 3U, 34U, 36U, 51U, 53U, 54U}) {
    std::string changed = good;
    changed[at] = 'g';
    CAPTURE(changed);
    CHECK(fieldOfTrace(changed) == "traceparent");
  }
}

TEST_CASE("a tracestate holds 512 bytes of UTF-8") {
  CHECK(fieldRefused(valid().setTrace("", std::string(512, 's'))).empty());
  CHECK(fieldRefused(valid().setTrace("", std::string(513, 's'))) == "tracestate");
  CHECK(fieldRefused(valid().setTrace("", "\x80")) == "tracestate");
}

TEST_CASE("deliverAt and expiresAt are of the same years") {
  const Event::Time end(std::chrono::sys_days(std::chrono::year(2200) / 1 / 1));
  const std::chrono::microseconds step(1);
  CHECK(fieldRefused(valid().setDeliverAt(end - step)).empty());
  CHECK(fieldRefused(valid().setDeliverAt(end)) == "deliverAt");
  CHECK(fieldRefused(valid().setExpiresAt(end - step)).empty());
  CHECK(fieldRefused(valid().setExpiresAt(end)) == "expiresAt");
  CHECK(fieldRefused(valid().setExpiresAt(Event::Time(-step))) == "expiresAt");
}

TEST_CASE("an id of version 7 that is much older than its due time is refused, others are not") {
  using std::chrono::hours;
  using std::chrono::milliseconds;
  const std::string old = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f";
  const Event::Time made(milliseconds(1645557742000));
  CHECK(fieldRefused(valid().setId(old).setDeliverAt(made + hours(12))).empty());
  CHECK(fieldRefused(valid().setId(old).setDeliverAt(made + hours(12) + milliseconds(1))) == "id");
  CHECK(fieldRefused(valid().setDeliverAt(made + hours(13)).setId(old)) == "id");
  CHECK(fieldRefused(valid().setId(old).setDeliverAt(made - hours(1000))).empty());
  CHECK(fieldRefused(valid().setId(old)).empty());
  const Event::Time far(std::chrono::sys_days(std::chrono::year(2199) / 1 / 1));
  CHECK(fieldRefused(valid().setDeliverAt(far)).empty());
  for (const std::string id :
       {"017f22e2-79b0-4cc3-98c4-dc0c0c07398f", "c232ab00-9414-11ec-b3c8-9f6bdeced846",
        "ffffffff-ffff-7000-8000-000000000000"}) {
    CAPTURE(id);
    CHECK(fieldRefused(valid().setId(id).setDeliverAt(far)).empty());
  }
  const Event::Time before(std::chrono::sys_days(std::chrono::year(1900) / 1 / 1));
  CHECK(fieldRefused(valid().setId(old).setDeliverAt(before)) == "deliverAt");
}

TEST_CASE("a time is of the years 1970 to 2199") {
  using std::chrono::sys_days;
  using std::chrono::year;
  const Event::Time first = sys_days(year(1970) / 1 / 1);
  const Event::Time end = sys_days(year(2200) / 1 / 1);
  CHECK(fieldRefused(valid().setTime(first)).empty());
  CHECK(fieldRefused(valid().setTime(first - std::chrono::microseconds(1))) == "time");
  CHECK(fieldRefused(valid().setTime(end - std::chrono::microseconds(1))).empty());
  CHECK(fieldRefused(valid().setTime(end)) == "time");
}

TEST_CASE("UTF-8 of every length is accepted, at the edges of its range") {
  for (const std::string text :
       {"", "plain", "\x7f", "\xc2\x80", "\xdf\xbf", "\xe0\xa0\x80", "\xed\x9f\xbf", "\xee\x80\x80",
        "\xef\xbf\xbf", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf", "a\xe2\x82\xac\x62"}) {
    CAPTURE(text);
    CHECK(isUtf8Text(text));
  }
}

TEST_CASE("what is not UTF-8 is refused: overlong forms, surrogates, cut and stray bytes") {
  for (const std::string text : {"\xc0\x80",
                                 "\xc1\xbf",
                                 "\xe0\x80\x80",
                                 "\xe0\x9f\xbf",
                                 "\xf0\x80\x80\x80",  // overlong
                                 "\xf0\x8f\xbf\xbf",
                                 "\xed\xa0\x80",
                                 "\xed\xbf\xbf",  // surrogates
                                 "\xf4\x90\x80\x80",
                                 "\xf5\x80\x80\x80",
                                 "\xff",
                                 "\xfe",  // too large
                                 "\x80",
                                 "\xbf",
                                 "a\x80",  // stray
                                 "\xc2",
                                 "\xe2\x82",
                                 "\xf0\x90\x80",
                                 "\xc2\x41",
                                 "\xe2\x41\x80",
                                 "\xf0\x90\x41\x80",
                                 "\xe2\x82\x41",
                                 "\xc2\xc2\x80"}) {
    CAPTURE(text);
    CHECK_FALSE(isUtf8Text(text));
  }
  CHECK_FALSE(isUtf8Text(std::string_view("\0", 1)));
  CHECK_FALSE(isUtf8Text(std::string_view("a\0b", 3)));
}

TEST_CASE("JSON in which a name occurs twice in one object is refused, in several it is fine") {
  const auto publishable = [](const std::string& json) {
    checkEvent(Event::ofBytes("a.b", json, "application/json"), "source", EventLimits::kPayload);
  };
  CHECK_THROWS_AS(publishable(R"({"a":1,"a":2})"), InvalidEvent);
  CHECK_THROWS_AS(publishable(R"([{"b":{"a":1,"\u0061":2}}])"), InvalidEvent);
  CHECK_NOTHROW(publishable(R"([{"a":1},{"a":{"a":":,[{"}}])"));
  CHECK_NOTHROW(publishable(R"({"\"a\":":1,"\\":2})"));
}

TEST_CASE("values are counted without parsing, and a million of them are the most") {
  CHECK(shapeOf("1").values == 1);
  CHECK(shapeOf(R"([1,2,"a,[{"])").values >= 4);
  CHECK(shapeOf(R"({"a":1,"b":{"c:":2}})").members == 3);
  std::string many = "[0";
  for (std::size_t i = 0; i < kJsonValues; ++i) many += ",0";
  CHECK_THROWS_AS(checkEvent(Event::ofBytes("a.b", many + "]", "application/json"), "source",
                             EventLimits::kPayload),
                  InvalidEvent);
}
