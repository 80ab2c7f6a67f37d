#include <doctest/doctest.h>

#include "amqp/channel.hpp"
#include "support/thrown.hpp"

using namespace pillion::amqp;
using pillion::test::has;

namespace {

Delivery from(const std::string& exchange, const std::string& queue) {
  Delivery delivery;
  delivery.exchange = exchange;
  delivery.queue = queue;
  return delivery;
}

}  // namespace

TEST_CASE("what comes by the queue's own name was redriven, what comes by an exchange was not") {
  CHECK(isRedriven(from("", "stock.events")));
  CHECK(isRedriven(from("", "stock.events.p3")));
  CHECK(isRedriven(from("stock.events.partitions", "stock.events.p3")));
  CHECK(isRedriven(from("stock.events.partitions", "stock.events.p11")));
  CHECK_FALSE(isRedriven(from("pillion.events", "stock.events")));
  CHECK_FALSE(isRedriven(from("pillion.events", "stock.events.p3")));
  CHECK_FALSE(isRedriven(from("other.events.partitions", "stock.events.p3")));
  CHECK_FALSE(isRedriven(from("stock.events.unkeyed", "stock.events.p0")));
  CHECK_FALSE(isRedriven(from("stock.events.p3.partitions", "stock.events.p3")));
}

TEST_CASE("a queue whose name only looks like a partition's is none") {
  CHECK_FALSE(isRedriven(from("stock.partitions", "stock.p")));
  CHECK_FALSE(isRedriven(from("stock.partitions", "stock.px1")));
  CHECK_FALSE(isRedriven(from("stock.partitions", "stock.payments")));
}

TEST_CASE("a message is named by its id, or by what stands there, and by how it came") {
  Delivery delivery = from("shop", "stock.events");
  delivery.message.routingKey = "order\ncreated";
  delivery.message.contentType = "application/json";
  CHECK(nameOf(delivery, nullptr) ==
        "a message without message_id (queue 'stock.events', exchange 'shop', routing key "
        "'order\\x0acreated', content type 'application/json')");
  delivery.message.messageId = "\x1b[31m" + std::string(250, 'x');
  delivery.message.contentEncoding = "gzip";
  CHECK(has(nameOf(delivery, nullptr), "message '\\x1b[31mxxx"));
  CHECK(has(nameOf(delivery, nullptr), "(255 bytes)"));
  CHECK(has(nameOf(delivery, nullptr), ", encoding 'gzip')"));
  const Identity identity{"0197f22e-79b0-7cc3-98c4-dc0c0c07398f", "", "", "t"};
  CHECK(has(nameOf(delivery, &identity), "message '0197f22e-79b0-7cc3-98c4-dc0c0c07398f' ("));
}
