#include "amqp/names.hpp"

#include <doctest/doctest.h>

using namespace pillion::amqp;

TEST_CASE("a partition's queue is told from others by its name, of whatever generation") {
  CHECK(partitionQueueOf("a.events", 3, 1) == "a.events.p3");
  CHECK(partitionQueueOf("a.events", 3, 2) == "a.events.p3.2");
  for (const char* name : {"a.events", "a.events.p3", "a.events.p3.2"}) {
    CAPTURE(name);
    CHECK(withoutPartition(name) == "a.events");
    CHECK(isOneOf("a.events", name));
  }
  for (const char* name : {"a.events.p", "a.events.p.2", "a.events.px", "a.events.p3x", "b.events",
                           "a.event", "a.events.p3.p4", "a.events.p1234567890123", ""}) {
    CAPTURE(name);
    CHECK_FALSE(isOneOf("a.events", name));
  }
  CHECK(isOneOf("a.p3", "a.p3"));
  CHECK(isOneOf("a.p3", "a.p3.p1"));
  CHECK_FALSE(isOneOf("a.p3", "a"));
}
