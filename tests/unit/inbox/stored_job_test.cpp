#include "inbox/stored_job.hpp"

#include <doctest/doctest.h>

#include <pillion/error.hpp>

using namespace pillion;
using namespace pillion::inbox;

TEST_CASE("a delivery comes back from its stored form as it was, bytes that are no text included") {
  Job job;
  job.delivery.queue = "stock.events";
  job.delivery.exchange = "pillion.events";
  amqp::Message& message = job.delivery.message;
  message.routingKey = "order.placed";
  message.messageId = "0197f22e-79b0-7cc3-98c4-dc0c0c07398f";
  message.type = "order.placed";
  message.appId = "order-service";
  message.contentType = "application/octet-stream";
  message.contentEncoding = "gzip";
  message.correlationId = "correlation";
  message.timestamp = 1'700'000'000;
  message.headers = {{"tenant", "acme"}, {"odd", std::string("\xff\x00\x01", 3)}, {"tenant", "b"}};
  message.body = std::string("\x00\xfe{", 3);
  const Job back = jobFromStored(storedForm(job));
  CHECK(back.delivery.queue == job.delivery.queue);
  CHECK(back.delivery.exchange == job.delivery.exchange);
  CHECK(back.delivery.message.routingKey == message.routingKey);
  CHECK(back.delivery.message.messageId == message.messageId);
  CHECK(back.delivery.message.type == message.type);
  CHECK(back.delivery.message.appId == message.appId);
  CHECK(back.delivery.message.contentType == message.contentType);
  CHECK(back.delivery.message.contentEncoding == message.contentEncoding);
  CHECK(back.delivery.message.correlationId == message.correlationId);
  CHECK(back.delivery.message.timestamp == message.timestamp);
  CHECK(back.delivery.message.headers == message.headers);
  CHECK(back.delivery.message.body == message.body);
}

TEST_CASE("bytes that no delivery was stored as are refused") {
  CHECK_THROWS_AS(jobFromStored("garbage"), Error);
  CHECK_THROWS_AS(jobFromStored(""), Error);
}
