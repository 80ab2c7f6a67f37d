#include "amqp/frame_assembler.hpp"

#include <charconv>
#include <pillion/error.hpp>
#include <span>
#include <utility>

#include "amqp/field_text.hpp"
#include "amqp/reply.hpp"

namespace pillion::amqp {
namespace {

void copyHeaders(Message& message, const amqp_table_t& table) {
  for (int i = 0; i < table.num_entries; ++i) {
    const amqp_table_entry_t& entry = table.entries[i];
    message.headers.emplace_back(toText(entry.key), textOf(entry.value));
  }
}

void copyProperties(Message& message, const amqp_basic_properties_t& properties) {
  const auto has = [&](amqp_flags_t flag) { return (properties._flags & flag) != 0; };
  if (has(AMQP_BASIC_MESSAGE_ID_FLAG)) message.messageId = toText(properties.message_id);
  if (has(AMQP_BASIC_TYPE_FLAG)) message.type = toText(properties.type);
  if (has(AMQP_BASIC_APP_ID_FLAG)) message.appId = toText(properties.app_id);
  if (has(AMQP_BASIC_CONTENT_TYPE_FLAG)) message.contentType = toText(properties.content_type);
  if (has(AMQP_BASIC_CONTENT_ENCODING_FLAG)) {
    message.contentEncoding = toText(properties.content_encoding);
  }
  if (has(AMQP_BASIC_CORRELATION_ID_FLAG)) {
    message.correlationId = toText(properties.correlation_id);
  }
  if (has(AMQP_BASIC_TIMESTAMP_FLAG)) message.timestamp = properties.timestamp;
  if (has(AMQP_BASIC_HEADERS_FLAG)) copyHeaders(message, properties.headers);
}

/// 0 when there is none.
std::int64_t outboxIdOf(const amqp_basic_properties_t& properties) {
  if ((properties._flags & AMQP_BASIC_HEADERS_FLAG) == 0) return 0;
  const std::span headers(properties.headers.entries,
                          static_cast<std::size_t>(properties.headers.num_entries));
  std::int64_t id = 0;
  for (const amqp_table_entry_t& header : headers) {
    if (header.value.kind != AMQP_FIELD_KIND_UTF8 || toView(header.key) != kOutboxIdHeader)
      continue;
    const std::string_view text = toView(header.value.value.bytes);
    std::from_chars(text.data(), text.data() + text.size(), id);
  }
  return id;
}

}  // namespace

std::optional<Incoming> FrameAssembler::add(const amqp_frame_t& frame) {
  switch (frame.frame_type) {
    case AMQP_FRAME_METHOD:
      return addMethod(frame.payload.method);
    case AMQP_FRAME_HEADER:
      return addHeader(frame);
    case AMQP_FRAME_BODY:
      return addBody(frame.payload.body_fragment);
    default:
      return std::nullopt;  // heartbeats
  }
}

std::optional<Incoming> FrameAssembler::addMethod(const amqp_method_t& method) {
  switch (method.id) {
    case AMQP_BASIC_ACK_METHOD: {
      const auto* ack = static_cast<const amqp_basic_ack_t*>(method.decoded);
      return Confirm{ack->delivery_tag, ack->multiple != 0, true, road_};
    }
    case AMQP_BASIC_NACK_METHOD: {
      const auto* nack = static_cast<const amqp_basic_nack_t*>(method.decoded);
      return Confirm{nack->delivery_tag, nack->multiple != 0, false, road_};
    }
    case AMQP_BASIC_RETURN_METHOD:
      returned_ = {"", 0, road_};
      building_ = Building::Return;
      return std::nullopt;
    case AMQP_BASIC_DELIVER_METHOD: {
      const auto* deliver = static_cast<const amqp_basic_deliver_t*>(method.decoded);
      // Consumers are named after their queue.
      delivery_ = {deliver->delivery_tag,
                   deliver->redelivered != 0,
                   toText(deliver->consumer_tag),
                   toText(deliver->exchange),
                   {},
                   0};
      delivery_.message.routingKey = toText(deliver->routing_key);
      building_ = Building::Delivery;
      return std::nullopt;
    }
    case AMQP_BASIC_CANCEL_METHOD:
      return ConsumerCancelled{
          toText(static_cast<const amqp_basic_cancel_t*>(method.decoded)->consumer_tag), 0};
    case AMQP_CONNECTION_BLOCKED_METHOD: {
      const auto* blocked = static_cast<const amqp_connection_blocked_t*>(method.decoded);
      return Blocked{true, toText(blocked->reason)};
    }
    case AMQP_CONNECTION_UNBLOCKED_METHOD:
      return Blocked{false, ""};
    case AMQP_CHANNEL_CLOSE_METHOD: {
      CloseReason reason = closeReason(method);
      const bool aboutMessage = isAboutMessage(reason.code, reason.text);
      return ChannelClosed{road_, reason.code, std::move(reason.text), aboutMessage};
    }
    default:
      return std::nullopt;  // cancel-ok and the like
  }
}

std::optional<Incoming> FrameAssembler::addHeader(const amqp_frame_t& frame) {
  const auto* properties =
      static_cast<const amqp_basic_properties_t*>(frame.payload.properties.decoded);
  bodyMissing_ = frame.payload.properties.body_size;
  if (building_ == Building::Delivery) {
    copyProperties(delivery_.message, *properties);
    keepBody_ = bodyMissing_ <= EventLimits::kPayload;
    if (keepBody_) {
      delivery_.message.body.reserve(bodyMissing_);
    } else {
      delivery_.message.headers.emplace_back(kBodyMissingHeader, std::to_string(bodyMissing_));
    }
  } else if (building_ == Building::Return) {
    if ((properties->_flags & AMQP_BASIC_MESSAGE_ID_FLAG) != 0) {
      returned_.messageId = toText(properties->message_id);
    }
    returned_.outboxId = outboxIdOf(*properties);
  }
  return finishWhenComplete();
}

std::optional<Incoming> FrameAssembler::addBody(amqp_bytes_t fragment) {
  if (building_ == Building::Delivery && keepBody_) {
    delivery_.message.body.append(static_cast<const char*>(fragment.bytes), fragment.len);
  }
  bodyMissing_ -= std::min<std::uint64_t>(bodyMissing_, fragment.len);
  return finishWhenComplete();
}

std::optional<Incoming> FrameAssembler::finishWhenComplete() {
  if (bodyMissing_ > 0 || building_ == Building::Nothing) return std::nullopt;
  const Building built = std::exchange(building_, Building::Nothing);
  if (built == Building::Return) return std::move(returned_);
  return std::move(delivery_);
}

}  // namespace pillion::amqp
