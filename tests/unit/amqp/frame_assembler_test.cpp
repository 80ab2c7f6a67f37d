#include "amqp/frame_assembler.hpp"

#include <doctest/doctest.h>

#include <pillion/error.hpp>

#include "amqp/reply.hpp"

using namespace pillion::amqp;

namespace {

/// The frames of one message after the other, as rabbitmq-c hands them over.
class Frames {
 public:
  explicit Frames(Road road = Road::Main) : assembler_(road) {}

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
  CHECK(std::get<Returned>(*incoming).outboxId == 0);
}

namespace {

amqp_table_entry_t entryOf(const char* key, std::uint8_t kind) {
  amqp_table_entry_t entry{};
  entry.key = amqp_cstring_bytes(key);
  entry.value.kind = kind;
  return entry;
}

/// The headers of a delivery that came with these entries.
std::vector<std::pair<std::string, std::string>> headersOfDelivery(
    std::vector<amqp_table_entry_t> entries) {
  Frames frames;
  amqp_basic_deliver_t deliver{};
  frames.method(AMQP_BASIC_DELIVER_METHOD, &deliver);
  amqp_basic_properties_t properties{};
  properties._flags = AMQP_BASIC_HEADERS_FLAG;
  properties.headers = {static_cast<int>(entries.size()), entries.data()};
  const auto incoming = frames.header(properties, 0);
  REQUIRE(incoming);
  return std::get<Delivery>(*incoming).message.headers;
}

using Headers = std::vector<std::pair<std::string, std::string>>;

}  // namespace

TEST_CASE("headers of text, numbers and booleans become texts, tables and arrays become JSON") {
  auto text = entryOf("text", AMQP_FIELD_KIND_UTF8);
  text.value.value.bytes = amqp_cstring_bytes("value");
  auto number = entryOf("number", AMQP_FIELD_KIND_I64);
  number.value.value.i64 = -5;
  auto flag = entryOf("flag", AMQP_FIELD_KIND_BOOLEAN);
  flag.value.value.boolean = 1;
  auto real = entryOf("real", AMQP_FIELD_KIND_F64);
  real.value.value.f64 = 0.5;
  auto nothing = entryOf("nothing", AMQP_FIELD_KIND_VOID);
  auto odd = entryOf("odd", AMQP_FIELD_KIND_UTF8);
  odd.value.value.bytes = amqp_cstring_bytes("\xff");
  std::vector<amqp_field_value_t> items{text.value, odd.value};
  auto array = entryOf("array", AMQP_FIELD_KIND_ARRAY);
  array.value.value.array = {static_cast<int>(items.size()), items.data()};
  std::vector<amqp_table_entry_t> members{array, number};
  auto table = entryOf("table", AMQP_FIELD_KIND_TABLE);
  table.value.value.table = {static_cast<int>(members.size()), members.data()};
  CHECK(headersOfDelivery({text, number, flag, real, nothing, odd, table}) ==
        Headers{{"text", "value"},
                {"number", "-5"},
                {"flag", "true"},
                {"real", "0.5"},
                {"nothing", "null"},
                {"odd", "\xff"},
                {"table", "{\"array\":[\"value\",\"\xef\xbf\xbd\"],\"number\":-5}"}});
}

TEST_CASE("a decimal header is the number that was sent, digit for digit") {
  const auto shown = [](std::uint8_t decimals, std::uint32_t value) {
    auto entry = entryOf("price", AMQP_FIELD_KIND_DECIMAL);
    entry.value.value.decimal = {decimals, value};
    return headersOfDelivery({entry}).at(0).second;
  };
  CHECK(shown(2, 1'999) == "19.99");
  CHECK(shown(2, 5) == "0.05");
  CHECK(shown(0, 7) == "7");
  CHECK(shown(3, 4'294'967'295) == "4294967.295");
}

TEST_CASE("a header that is nested without end is cut after some levels") {
  std::vector<amqp_field_value_t> levels(20'000);
  for (std::size_t i = 0; i < levels.size(); ++i) {
    levels[i].kind = AMQP_FIELD_KIND_ARRAY;
    levels[i].value.array = {i + 1 < levels.size() ? 1 : 0,
                             i + 1 < levels.size() ? &levels[i + 1] : nullptr};
  }
  auto entry = entryOf("deep", AMQP_FIELD_KIND_ARRAY);
  entry.value = levels[0];
  CHECK(headersOfDelivery({entry}) == Headers{{"deep", "[[[[[[[[null]]]]]]]]"}});
}

TEST_CASE("of a body larger than an event's may be only the size is kept, and the next is whole") {
  Frames frames;
  amqp_basic_deliver_t deliver{};
  constexpr std::size_t kTooLarge = pillion::EventLimits::kPayload + 1;
  const std::string half(kTooLarge / 2, 'x');
  frames.method(AMQP_BASIC_DELIVER_METHOD, &deliver);
  const std::string id = "0197f22e-79b0-7cc3-98c4-dc0c0c07398f";
  CHECK_FALSE(frames.header(withMessageId(id), kTooLarge));
  CHECK_FALSE(frames.body(half));
  const auto large = frames.body(half + "x");
  REQUIRE(large);
  Message message = std::get<Delivery>(*large).message;
  CHECK(message.body.empty());
  CHECK(message.body.capacity() < 1'000);
  message.type = "type";
  message.appId = "source";
  const auto identity = identityOf(message);
  REQUIRE(std::holds_alternative<Problem>(identity));
  CHECK(std::get<Problem>(identity).reason == "invalid-event");
  CHECK(std::get<Problem>(identity).detail.find("data of 16777217 bytes") != std::string::npos);

  frames.method(AMQP_BASIC_DELIVER_METHOD, &deliver);
  CHECK_FALSE(frames.header(withMessageId(id), 3));
  const auto small = frames.body("abc");
  REQUIRE(small);
  CHECK(std::get<Delivery>(*small).message.body == "abc");
  CHECK(std::get<Delivery>(*small).message.headers.empty());
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

TEST_CASE("a channel that the broker closes is told with its road, code and what it was over") {
  Frames frames(Road::Second);
  amqp_channel_close_t close{};
  close.reply_code = 406;
  close.reply_text = amqp_cstring_bytes("PRECONDITION_FAILED - message size 11 is larger than 10");
  const auto incoming = frames.method(AMQP_CHANNEL_CLOSE_METHOD, &close);
  REQUIRE(incoming);
  const auto& closed = std::get<ChannelClosed>(*incoming);
  CHECK(closed.road == Road::Second);
  CHECK(closed.replyCode == 406);
  CHECK(closed.text == "PRECONDITION_FAILED - message size 11 is larger than 10");
  CHECK(closed.aboutMessage);
}

namespace {

/// What the broker sends with a return: the properties as they were published.
amqp_basic_properties_t withHeaders(std::vector<amqp_table_entry_t>& entries) {
  amqp_basic_properties_t properties{};
  properties._flags = AMQP_BASIC_HEADERS_FLAG;
  properties.headers = {static_cast<int>(entries.size()), entries.data()};
  return properties;
}

std::vector<amqp_table_entry_t> outboxIdEntry(const char* text) {
  amqp_table_entry_t entry{};
  entry.key = amqp_cstring_bytes("pillion-outbox-id");
  entry.value.kind = AMQP_FIELD_KIND_UTF8;
  entry.value.value.bytes = amqp_cstring_bytes(text);
  return {entry};
}

}  // namespace

TEST_CASE("returns and confirms of two roads whose frames come interleaved are kept apart") {
  Frames main(Road::Main);
  Frames second(Road::Second);
  amqp_basic_return_t returned{};
  auto one = outboxIdEntry("1");
  auto two = outboxIdEntry("2");
  amqp_basic_ack_t ack{7, 0};
  CHECK_FALSE(main.method(AMQP_BASIC_RETURN_METHOD, &returned));
  CHECK_FALSE(second.method(AMQP_BASIC_RETURN_METHOD, &returned));
  CHECK_FALSE(main.header(withHeaders(one), 4));
  CHECK_FALSE(second.header(withHeaders(two), 2));
  CHECK_FALSE(main.body("ab"));
  const auto second2 = second.body("xy");
  const auto confirm = second.method(AMQP_BASIC_ACK_METHOD, &ack);
  const auto main1 = main.body("cd");
  REQUIRE(second2);
  REQUIRE(confirm);
  REQUIRE(main1);
  CHECK(std::get<Returned>(*second2).outboxId == 2);
  CHECK(std::get<Returned>(*second2).road == Road::Second);
  CHECK(std::get<Confirm>(*confirm).tag == 7);
  CHECK(std::get<Confirm>(*confirm).road == Road::Second);
  CHECK(std::get<Returned>(*main1).outboxId == 1);
  CHECK(std::get<Returned>(*main1).road == Road::Main);
}

TEST_CASE("a return without a readable outbox id has none, and takes none from the one before") {
  Frames frames;
  amqp_basic_return_t returned{};
  const auto returnedWith = [&](amqp_basic_properties_t properties) {
    frames.method(AMQP_BASIC_RETURN_METHOD, &returned);
    const auto incoming = frames.header(properties, 0);
    REQUIRE(incoming);
    return std::get<Returned>(*incoming).outboxId;
  };
  auto entries = outboxIdEntry("9223372036854775807");
  CHECK(returnedWith(withHeaders(entries)) == 9'223'372'036'854'775'807);
  CHECK(returnedWith(amqp_basic_properties_t{}) == 0);
  for (const char* text : {"", "x", "9223372036854775808"}) {
    entries = outboxIdEntry(text);
    CHECK(returnedWith(withHeaders(entries)) == 0);
  }
  entries[0].value.kind = AMQP_FIELD_KIND_I64;
  entries[0].value.value.i64 = 5;
  CHECK(returnedWith(withHeaders(entries)) == 0);
}
