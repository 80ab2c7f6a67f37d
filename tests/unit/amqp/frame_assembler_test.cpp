#include "amqp/frame_assembler.hpp"

#include <doctest/doctest.h>

#include <pillion/error.hpp>

#include "amqp/reply.hpp"

using namespace pillion::amqp;

namespace {

/// The frames of one message after the other, as rabbitmq-c hands them over.
class Frames {
 public:
  std::optional<Incoming> method(amqp_method_number_t id, void* decoded) {
    amqp_frame_t frame{};
    frame.frame_type = AMQP_FRAME_METHOD;
    frame.payload.method = {id, decoded};
    return assembler_.add(frame);
  }

  std::optional<Incoming> header(amqp_basic_properties_t properties, std::uint64_t size) {
    amqp_frame_t frame{};
    frame.frame_type = AMQP_FRAME_HEADER;
    frame.payload.properties.body_size = size;
    frame.payload.properties.decoded = &properties;
    return assembler_.add(frame);
  }

  std::optional<Incoming> body(const std::string& text) {
    amqp_frame_t frame{};
    frame.frame_type = AMQP_FRAME_BODY;
    frame.payload.body_fragment = toBytes(text);
    return assembler_.add(frame);
  }

  std::optional<Incoming> heartbeat() {
    amqp_frame_t frame{};
    frame.frame_type = AMQP_FRAME_HEARTBEAT;
    return assembler_.add(frame);
  }

 private:
  FrameAssembler assembler_;
};

amqp_basic_properties_t withMessageId(const std::string& id) {
  amqp_basic_properties_t properties{};
  properties._flags = AMQP_BASIC_MESSAGE_ID_FLAG;
  properties.message_id = toBytes(id);
  return properties;
}

}  // namespace

TEST_CASE("a delivery is complete with the last of its body frames, heartbeats in between or not") {
  Frames frames;
  amqp_basic_deliver_t deliver{};
  deliver.delivery_tag = 9;
  deliver.redelivered = 1;
  deliver.exchange = amqp_cstring_bytes("exchange");
  deliver.routing_key = amqp_cstring_bytes("a.b");
  CHECK_FALSE(frames.method(AMQP_BASIC_DELIVER_METHOD, &deliver));
  const std::string id = "id";
  CHECK_FALSE(frames.header(withMessageId(id), 5));
  CHECK_FALSE(frames.body("abc"));
  CHECK_FALSE(frames.heartbeat());
  const auto incoming = frames.body("de");
  REQUIRE(incoming);
  const auto* delivery = std::get_if<Delivery>(&*incoming);
  REQUIRE(delivery != nullptr);
  CHECK(delivery->tag == 9);
  CHECK(delivery->redelivered);
  CHECK(delivery->exchange == "exchange");
  CHECK(delivery->message.routingKey == "a.b");
  CHECK(delivery->message.messageId == "id");
  CHECK(delivery->message.body == "abcde");
}

TEST_CASE("a delivery without a body is complete with its header, and nothing of it stays behind") {
  Frames frames;
  amqp_basic_deliver_t deliver{};
  deliver.delivery_tag = 1;
  frames.method(AMQP_BASIC_DELIVER_METHOD, &deliver);
  const std::string id = "id";
  CHECK(frames.header(withMessageId(id), 0));
  deliver.delivery_tag = 2;
  frames.method(AMQP_BASIC_DELIVER_METHOD, &deliver);
  const auto second = frames.header(amqp_basic_properties_t{}, 0);
  REQUIRE(second);
  CHECK(std::get<Delivery>(*second).message.messageId.empty());
  CHECK(std::get<Delivery>(*second).tag == 2);
}

TEST_CASE("a return carries the id of the message and comes when its body is through") {
  Frames frames;
  amqp_basic_return_t returned{};
  returned.reply_code = 312;
  returned.reply_text = amqp_cstring_bytes("NO_ROUTE");
  CHECK_FALSE(frames.method(AMQP_BASIC_RETURN_METHOD, &returned));
  const std::string id = "id";
  CHECK_FALSE(frames.header(withMessageId(id), 3));
  const auto incoming = frames.body("abc");
  REQUIRE(incoming);
  CHECK(std::get<Returned>(*incoming).messageId == "id");
  CHECK(std::get<Returned>(*incoming).replyCode == 312);
}

TEST_CASE("headers of text, numbers and booleans become texts, others are left out") {
  Frames frames;
  amqp_basic_deliver_t deliver{};
  frames.method(AMQP_BASIC_DELIVER_METHOD, &deliver);
  amqp_table_entry_t entries[4]{};
  entries[0].key = amqp_cstring_bytes("text");
  entries[0].value.kind = AMQP_FIELD_KIND_UTF8;
  entries[0].value.value.bytes = amqp_cstring_bytes("value");
  entries[1].key = amqp_cstring_bytes("number");
  entries[1].value.kind = AMQP_FIELD_KIND_I64;
  entries[1].value.value.i64 = -5;
  entries[2].key = amqp_cstring_bytes("flag");
  entries[2].value.kind = AMQP_FIELD_KIND_BOOLEAN;
  entries[2].value.value.boolean = 1;
  entries[3].key = amqp_cstring_bytes("table");
  entries[3].value.kind = AMQP_FIELD_KIND_TABLE;
  amqp_basic_properties_t properties{};
  properties._flags = AMQP_BASIC_HEADERS_FLAG;
  properties.headers = {4, entries};
  const auto incoming = frames.header(properties, 0);
  REQUIRE(incoming);
  using Headers = std::vector<std::pair<std::string, std::string>>;
  CHECK(std::get<Delivery>(*incoming).message.headers ==
        Headers{{"text", "value"}, {"number", "-5"}, {"flag", "true"}});
}

TEST_CASE("acks and nacks keep tag and multiple") {
  Frames frames;
  amqp_basic_ack_t ack{7, 1};
  const auto positive = frames.method(AMQP_BASIC_ACK_METHOD, &ack);
  REQUIRE(positive);
  CHECK(std::get<Confirm>(*positive).tag == 7);
  CHECK(std::get<Confirm>(*positive).multiple);
  CHECK(std::get<Confirm>(*positive).positive);
  amqp_basic_nack_t nack{8, 0, 0};
  const auto negative = frames.method(AMQP_BASIC_NACK_METHOD, &nack);
  REQUIRE(negative);
  CHECK(std::get<Confirm>(*negative).tag == 8);
  CHECK_FALSE(std::get<Confirm>(*negative).multiple);
  CHECK_FALSE(std::get<Confirm>(*negative).positive);
}

TEST_CASE("blocked, unblocked and a cancelled consumer are told apart") {
  Frames frames;
  amqp_connection_blocked_t blocked{amqp_cstring_bytes("low on memory")};
  const auto on = frames.method(AMQP_CONNECTION_BLOCKED_METHOD, &blocked);
  REQUIRE(on);
  CHECK(std::get<Blocked>(*on).now);
  CHECK(std::get<Blocked>(*on).reason == "low on memory");
  const auto off = frames.method(AMQP_CONNECTION_UNBLOCKED_METHOD, nullptr);
  REQUIRE(off);
  CHECK_FALSE(std::get<Blocked>(*off).now);
  amqp_basic_cancel_t cancel{};
  const auto cancelled = frames.method(AMQP_BASIC_CANCEL_METHOD, &cancel);
  REQUIRE(cancelled);
  CHECK(std::holds_alternative<ConsumerCancelled>(*cancelled));
}

TEST_CASE("a close by the broker is a BrokerError with its code") {
  Frames frames;
  amqp_channel_close_t close{};
  close.reply_code = 406;
  close.reply_text = amqp_cstring_bytes("PRECONDITION_FAILED");
  try {
    frames.method(AMQP_CHANNEL_CLOSE_METHOD, &close);
    FAIL("nothing was thrown");
  } catch (const pillion::BrokerError& error) {
    CHECK(error.replyCode() == 406);
    CHECK(error.connectionLost());
  }
}
