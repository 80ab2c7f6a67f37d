#include "amqp/roads.hpp"

#include <algorithm>
#include <pillion/error.hpp>
#include <stdexcept>

#include "amqp/field_table.hpp"
#include "amqp/reply.hpp"

namespace pillion::amqp {
namespace {

amqp_basic_properties_t propertiesOf(const Message& message,
                                     std::vector<amqp_table_entry_t>& headers) {
  amqp_basic_properties_t properties{};
  const auto set = [&](amqp_flags_t flag, amqp_bytes_t& field, const std::string& text) {
    if (text.empty()) return;
    properties._flags |= flag;
    field = toBytes(text);
  };
  set(AMQP_BASIC_MESSAGE_ID_FLAG, properties.message_id, message.messageId);
  set(AMQP_BASIC_TYPE_FLAG, properties.type, message.type);
  set(AMQP_BASIC_APP_ID_FLAG, properties.app_id, message.appId);
  set(AMQP_BASIC_CONTENT_TYPE_FLAG, properties.content_type, message.contentType);
  set(AMQP_BASIC_CONTENT_ENCODING_FLAG, properties.content_encoding, message.contentEncoding);
  set(AMQP_BASIC_CORRELATION_ID_FLAG, properties.correlation_id, message.correlationId);
  properties._flags |= AMQP_BASIC_DELIVERY_MODE_FLAG | AMQP_BASIC_HEADERS_FLAG;
  properties.delivery_mode = AMQP_DELIVERY_PERSISTENT;
  properties.headers = tableOf(headers);
  if (message.timestamp != 0) {
    properties._flags |= AMQP_BASIC_TIMESTAMP_FLAG;
    properties.timestamp = message.timestamp;
  }
  return properties;
}

}  // namespace

void Roads::selectConfirms(std::string exchange) {
  exchange_ = std::move(exchange);
  Channel& main = of(Road::Main);
  main.published = 0;
  wire_.call(
      "switching publisher confirms on", [&] { amqp_confirm_select(wire_.get(), main.number); },
      main.number);
}

std::uint64_t Roads::publish(Road road, const Message& message) {
  Channel& channel = of(road);
  if (channel.number == 0) throw std::logic_error("published on a channel that is not open");
  entries_.clear();
  for (const auto& [name, value] : headers_.of(message)) entries_.push_back(textEntry(name, value));
  const auto properties = propertiesOf(message, entries_);
  wire_.send("publishing", [&] {
    const int status = amqp_basic_publish(wire_.get(), channel.number, toBytes(exchange_),
                                          toBytes(message.routingKey), /*mandatory=*/1,
                                          /*immediate=*/0, &properties, toBytes(message.body));
    if (status == AMQP_STATUS_TABLE_TOO_BIG || status == AMQP_STATUS_BAD_AMQP_DATA) {
      throw MessageUnsendable(std::string("RabbitMQ, publishing: ") + amqp_error_string2(status));
    }
    return status;
  });
  return ++channel.published;
}

// Nothing waits for the answers: the broker handles what comes on a channel in order, and what is
// published behind channel.open and confirm.select is confirmed.
void Roads::reopen(Road road) {
  Channel& channel = of(road);
  if (channel.number != 0) giveUp(channel);
  if (free_.empty()) {
    throw BrokerError("RabbitMQ has not ended " + std::to_string(abandoned_.size()) +
                      " channels that were given up");
  }
  channel = {.number = free_.back(), .published = 0, .assembler = FrameAssembler(road)};
  free_.pop_back();
  amqp_channel_open_t open{};
  wire_.sendMethod("opening a channel", channel.number, AMQP_CHANNEL_OPEN_METHOD, &open);
  amqp_confirm_select_t confirm{};
  wire_.sendMethod("switching publisher confirms on", channel.number, AMQP_CONFIRM_SELECT_METHOD,
                   &confirm);
}

void Roads::giveUp(Channel& channel) {
  amqp_channel_close_t close{};
  close.reply_code = AMQP_REPLY_SUCCESS;
  close.reply_text = amqp_cstring_bytes("given up");
  wire_.sendMethod("closing a channel", channel.number, AMQP_CHANNEL_CLOSE_METHOD, &close);
  abandoned_.push_back(std::exchange(channel.number, amqp_channel_t{0}));
}

std::optional<Incoming> Roads::add(const amqp_frame_t& frame) {
  for (Channel& channel : channels_) {
    if (channel.number != frame.channel) continue;
    auto incoming = channel.assembler.add(frame);
    if (incoming && std::holds_alternative<ChannelClosed>(*incoming)) {
      answerClose(channel.number);
      free_.push_back(std::exchange(channel.number, amqp_channel_t{0}));
    }
    return incoming;
  }
  addOfAbandoned(frame);
  return std::nullopt;
}

void Roads::addOfAbandoned(const amqp_frame_t& frame) {
  const auto it = std::ranges::find(abandoned_, frame.channel);
  if (it == abandoned_.end() || frame.frame_type != AMQP_FRAME_METHOD) return;
  // Both may close at once; then the broker still answers ours.
  if (frame.payload.method.id == AMQP_CHANNEL_CLOSE_METHOD) answerClose(frame.channel);
  if (frame.payload.method.id != AMQP_CHANNEL_CLOSE_OK_METHOD) return;
  free_.push_back(*it);
  abandoned_.erase(it);
}

void Roads::answerClose(amqp_channel_t number) {
  amqp_channel_close_ok_t ok{};
  wire_.sendMethod("closing a channel", number, AMQP_CHANNEL_CLOSE_OK_METHOD, &ok);
}

}  // namespace pillion::amqp
