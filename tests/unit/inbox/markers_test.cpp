#include "inbox/markers.hpp"

#include <doctest/doctest.h>

using namespace std::chrono_literals;
using pillion::amqp::Delivery;
using pillion::inbox::Markers;

namespace {

Delivery deliveryOf(const pillion::amqp::Message& marker, std::uint64_t consumer) {
  Delivery delivery;
  delivery.consumer = consumer;
  delivery.message = marker;
  return delivery;
}

}  // namespace

TEST_CASE("a marker that somebody else has taken is sent again") {
  Markers markers;
  const auto first = markers.next("q.p0", 7, 100s);
  REQUIRE(first.has_value());
  CHECK(first->routingKey == "q.p0");
  CHECK_FALSE(markers.next("q.p0", 7, 104s).has_value());
  Markers before;  // of the instance that had the queue
  CHECK(before.take(deliveryOf(*first, 7)));
  CHECK_FALSE(before.cameBack(7));
  const auto again = markers.next("q.p0", 7, 105s);
  REQUIRE(again.has_value());
  CHECK_FALSE(markers.next("q.p0", 7, 109s).has_value());
  CHECK(markers.take(deliveryOf(*again, 7)));
  CHECK(markers.cameBack(7));
}

TEST_CASE("a marker counts for the consumer alone for which it was sent") {
  Markers markers;
  const auto marker = markers.next("q.p0", 7, 0s);
  CHECK(markers.take(deliveryOf(*marker, 8)));
  CHECK_FALSE(markers.cameBack(7));
  CHECK_FALSE(markers.cameBack(8));
  pillion::amqp::Message event;
  CHECK_FALSE(markers.take(deliveryOf(event, 7)));
}
