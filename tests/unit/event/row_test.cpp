#include "event/row.hpp"

#include <doctest/doctest.h>

using namespace pillion;

TEST_CASE("an event that is stored and read is what it was, in each of its attributes") {
  Event event("order.placed", {{"total", 7}});
  event.setSource("shop").setKey("order-1").setCorrelationId("c").setCausationId("d");
  event.setTrace("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "a=b");
  event.setHeader("tenant", "\"a\" \xe2\x82\xac").setHeader("empty", "");
  // As precise as PostgreSQL is.
  event.setTime(std::chrono::floor<std::chrono::microseconds>(event.time()));
  event.setExpiresAt(event.time() + std::chrono::hours(1));
  const Event read = eventOf(rowOf(event));
  CHECK(read.id() == event.id());
  CHECK(read.type() == event.type());
  CHECK(read.source() == event.source());
  CHECK(read.key() == event.key());
  CHECK(read.time() == event.time());
  CHECK(read.expiresAt() == event.expiresAt());
  CHECK(read.contentType() == event.contentType());
  CHECK(read.correlationId() == event.correlationId());
  CHECK(read.causationId() == event.causationId());
  CHECK(read.traceparent() == event.traceparent());
  CHECK(read.tracestate() == event.tracestate());
  CHECK(read.headers() == event.headers());
  CHECK(read.bytes() == event.bytes());
}

TEST_CASE("what an event does not have is not there when it is read") {
  const Event read = eventOf(rowOf(Event::ofBytes("raw", "\x01\x02", "application/octet-stream")));
  CHECK(read.bytes() == "\x01\x02");
  CHECK(read.contentType() == "application/octet-stream");
  CHECK(read.headers().empty());
  CHECK_FALSE(read.expiresAt().has_value());
  CHECK(read.key().empty());
}
