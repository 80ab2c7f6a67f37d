#include <pillion/publisher.hpp>

#include <doctest/doctest.h>

#include <pillion/error.hpp>

#include "outbox/outbox_table.hpp"
#include "outbox/row_columns.hpp"
#include "postgres/connection.hpp"
#include "support/thrown.hpp"

using namespace pillion;
using pillion::test::has;

namespace {

/// Nobody listens there, and nobody is waited for.
PublisherOptions unreachable() {
  PublisherOptions options;
  options.database.url = "host=/nonexistent dbname=none password=hush";
  return options;
}

}  // namespace

TEST_CASE("a publisher needs a source of 1 to 255 bytes of UTF-8") {
  CHECK_NOTHROW(EventPublisher::create(std::string(255, 's')));
  CHECK_THROWS_AS(EventPublisher::create(""), ConfigError);
  CHECK_THROWS_AS(EventPublisher::create(std::string(256, 's')), ConfigError);
  CHECK_THROWS_AS(EventPublisher::create("\xff"), ConfigError);
}

TEST_CASE("a publisher's options are refused when it is created") {
  PublisherOptions options;
  options.maxPayload = EventLimits::kPayload + 1;
  CHECK_THROWS_AS(EventPublisher::create("s", options), ConfigError);
  options.maxPayload = EventLimits::kPayload;
  options.database.schema = std::string(64, 's');
  CHECK_THROWS_AS(EventPublisher::create("s", options), ConfigError);
}

TEST_CASE("an event that breaks a limit is refused before a connection is opened") {
  const auto publisher = EventPublisher::create("s", unreachable());
  CHECK_THROWS_AS(publisher->publish(Event("", 1)), InvalidEvent);
  PublisherOptions options = unreachable();
  options.maxPayload = 3;
  const auto small = EventPublisher::create("s", options);
  CHECK_THROWS_AS(small->publish(Event("t", 1'000)), InvalidEvent);
}

TEST_CASE("a database that is away is a retryable error, and the password is not in it") {
  const auto publisher = EventPublisher::create("s", unreachable());
  try {
    publisher->publish(Event("t", 1));
    FAIL("nothing was thrown");
  } catch (const DatabaseError& error) {
    CHECK(error.retryable());
    CHECK_FALSE(error.outcomeInDoubt());
    CHECK_FALSE(has(error.what(), "hush"));
  }
}

TEST_CASE("a database URL that cannot be read is a ConfigError that does not quote it") {
  PublisherOptions options;
  options.database.url = "postgresql://user:hush@host:port:5432/?nonsense=1";
  const auto publisher = EventPublisher::create("s", options);
  const auto text = test::textThrown<ConfigError>([&] { publisher->publish(Event("t", 1)); });
  CHECK(has(text, "PILLION_DATABASE_URL"));
  CHECK_FALSE(has(text, "hush"));
}

TEST_CASE("a trace that the application supplies is held to the limits before anything is sent") {
  PublisherOptions options = unreachable();
  options.traceContext = [] { return TraceContext{"not a traceparent", ""}; };
  const auto publisher = EventPublisher::create("s", options);
  CHECK_THROWS_AS(publisher->publish(Event("t", 1)), InvalidEvent);
}

TEST_CASE("onCommitted is not called when nothing was committed") {
  PublisherOptions options = unreachable();
  int calls = 0;
  options.onCommitted = [&] { ++calls; };
  const auto publisher = EventPublisher::create("s", options);
  CHECK_THROWS_AS(publisher->publish(Event("t", 1)), DatabaseError);
  CHECK(calls == 0);
}

TEST_CASE("an insert of many rows numbers its parameters through, thirteen a row or seven") {
  using outbox::Columns;
  const std::string one = outbox::insertStatement("s", 1, Columns::All);
  CHECK(has(one, R"(insert into "s".outbox)"));
  CHECK(has(one, "nullif(pg_catalog.convert_from($13::pg_catalog.bytea, 'UTF8'), ''"));
  CHECK_FALSE(has(one, "$14"));
  const std::string many = outbox::insertStatement("s", 64, Columns::All);
  CHECK(has(many, "$832"));
  CHECK_FALSE(has(many, "$833"));
  const std::string needed = outbox::insertStatement("s", 64, Columns::Needed);
  CHECK(has(needed, "$448::pg_catalog.bytea)"));
  CHECK_FALSE(has(needed, "$449"));
  CHECK_FALSE(has(needed, "headers"));
}

TEST_CASE("an event with anything beyond the needed columns is written with all of them") {
  using outbox::Columns;
  using outbox::columnsOf;
  const outbox::Origin alone{"s", "", "", {}};
  const Event plain("t", 1);
  CHECK(columnsOf(plain, alone) == Columns::Needed);
  CHECK(columnsOf(plain, {"s", "correlation", "", {}}) == Columns::All);
  CHECK(columnsOf(plain, {"s", "", "cause", {}}) == Columns::All);
  CHECK(columnsOf(plain, {"s", "", "", {"parent", ""}}) == Columns::All);
  CHECK(columnsOf(plain, {"s", "", "", {"", "state"}}) == Columns::All);
  Event expires("t", 1);
  expires.setExpiresAt(Event::Time(std::chrono::seconds(1)));
  CHECK(columnsOf(expires, alone) == Columns::All);
  Event headers("t", 1);
  headers.setHeader("h", "");
  CHECK(columnsOf(headers, alone) == Columns::All);
}

TEST_CASE("an event's parameters are its fields, one for each of the statement's") {
  Event event = Event::ofBytes("type", "body", "text/plain");
  event.setKey("key").setCorrelationId("corr").setCausationId("cause").setHeader("h", "ü\"");
  event.setId("018f0000-0a0B-7c0d-8e0f-0123456789aB");
  event.setTime(Event::Time(std::chrono::sys_days(std::chrono::year(2000) / 1 / 1)) +
                std::chrono::microseconds(258));
  const outbox::Origin origin{.source = "source",
                              .correlationId = event.correlationId(),
                              .causationId = event.causationId(),
                              .trace = {"parent", "state"}};
  std::vector<std::string> values{
      std::string("\x01\x8f\0\0\x0a\x0b\x7c\x0d\x8e\x0f\x01\x23\x45\x67\x89\xab", 16),
      "type",
      "source",
      "key",
      std::string("\0\0\0\0\0\0\x01\x02", 8),
      "text/plain",
      "body"};
  postgres::Parameters needed;
  outbox::addEvent(needed, event, origin, outbox::Columns::Needed);
  CHECK(needed.values() == values);
  values.insert(values.end(), {"corr", "cause", "parent", "state", "", R"({"h":"ü\""})"});
  postgres::Parameters all;
  outbox::addEvent(all, event, origin, outbox::Columns::All);
  CHECK(all.values() == values);
}

TEST_CASE("the text of an error is cut before PostgreSQL's DETAIL, which can hold row values") {
  CHECK(postgres::firstLine("ERROR: duplicate key\nDETAIL: Key (sku)=(1)") ==
        "ERROR: duplicate key");
  CHECK(postgres::firstLine("one line") == "one line");
}
