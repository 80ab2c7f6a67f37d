#include "amqp/message.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <nlohmann/json.hpp>

#include "event/event_check.hpp"
#include "event/timestamp.hpp"

namespace pillion::amqp {
namespace {

/// Without an allocation per event.
std::string_view laneText(int lane) {
  static const auto texts = [] {
    std::array<std::string, kLanes> all;
    for (std::size_t i = 0; i < all.size(); ++i) all[i] = std::to_string(i);
    return all;
  }();
  return texts[static_cast<std::size_t>(lane) % texts.size()];
}

void addIfAny(Message& message, std::string name, std::string value) {
  if (!value.empty()) message.headers.emplace_back(std::move(name), std::move(value));
}

bool isShort(std::string_view text) {
  return text.size() <= EventLimits::kShortString;
}

/// Adds the user's headers; false when they are not what the publisher writes.
bool addOwnHeaders(Message& message, const std::string& text) {
  if (text.empty()) return true;
  const auto parsed = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!parsed.is_object()) return false;
  std::size_t total = 0;
  for (const auto& [name, value] : parsed.items()) {
    if (!value.is_string() || name.empty() || !isShort(name) || isReservedHeader(name))
      return false;
    message.headers.emplace_back(name, value.get<std::string>());
    total += name.size() + message.headers.back().second.size() + kHeaderOverhead;
  }
  return total <= EventLimits::kHeaders;
}

std::uint64_t secondsOf(std::chrono::system_clock::time_point time) {
  const auto seconds = std::chrono::floor<std::chrono::seconds>(time.time_since_epoch());
  return seconds.count() > 0 ? static_cast<std::uint64_t>(seconds.count()) : 0;
}

/// RabbitMQ's `timestamp` knows no microseconds; the column's text becomes RFC 3339 in full.
std::string asRfc3339(std::string time) {
  if (time.size() > 10) time[10] = 'T';
  return time + 'Z';
}

}  // namespace

const std::string* findHeader(const Message& message, std::string_view name) {
  for (const auto& [header, value] : message.headers) {
    if (header == name) return &value;
  }
  return nullptr;
}

std::size_t sizeOf(const std::pair<std::string, std::string>& header) {
  return header.first.size() + header.second.size() + kHeaderOverhead;
}

bool isOfTheWay(std::string_view header) {
  // CC and BCC are the broker's too: it routes by them, and takes them as arrays only.
  static constexpr std::array<std::string_view, 8> kNames{
      "x-death", "x-delivery-count", "x-acquired-count",       "CC",
      "BCC",     "x-received-from",  "pillion-outside-window", kOutboxIdHeader};
  static constexpr std::array<std::string_view, 6> kBeginnings{
      "x-first-death-", "x-last-death-", "x-opt-",
      "x-stream-",      "pillion-dead-", "pillion-original-"};
  return std::ranges::find(kNames, header) != kNames.end() ||
         std::ranges::any_of(kBeginnings,
                             [&](std::string_view begin) { return header.starts_with(begin); });
}

std::variant<Message, Problem> messageFrom(Row&& row) {
  if (!isShort(row.type) || !isShort(row.source) || !isShort(row.key) ||
      !isShort(row.contentType) || !isShort(row.correlationId) || !isShort(row.causationId)) {
    return Problem{"invalid", "an attribute is longer than 255 bytes"};
  }
  if (row.type.empty() || row.source.empty() || row.contentType.empty()) {
    return Problem{"invalid", "type, source or content type is empty"};
  }
  if (!isShort(row.traceparent) || row.tracestate.size() > EventLimits::kTraceState) {
    return Problem{"invalid", "traceparent or tracestate is longer than it may be"};
  }
  Message message;
  if (!addOwnHeaders(message, row.headers)) {
    return Problem{"invalid", "headers are not a JSON object of short names and texts"};
  }
  message.attributes.emplace(Message::Attributes{
      asRfc3339(std::move(row.time)), std::move(row.key),
      row.expiresAt.empty() ? "" : asRfc3339(std::move(row.expiresAt)), row.lane, row.id});
  const auto when = fromRfc3339(message.attributes->time);
  addIfAny(message, kCausationIdHeader, std::move(row.causationId));
  addIfAny(message, "traceparent", std::move(row.traceparent));
  addIfAny(message, "tracestate", std::move(row.tracestate));
  message.timestamp = when ? secondsOf(*when) : 0;
  message.routingKey = row.type;
  message.messageId = std::move(row.eventId);
  message.type = std::move(row.type);
  message.appId = std::move(row.source);
  message.contentType = std::move(row.contentType);
  message.correlationId = std::move(row.correlationId);
  message.body = std::move(row.payload);
  return message;
}

const std::vector<HeaderView>& SentHeaders::of(const Message& message) {
  headers_.clear();
  if (message.attributes) {
    headers_.emplace_back("cloudEvents_specversion", "1.0");
    headers_.emplace_back("cloudEvents_id", message.messageId);
    headers_.emplace_back("cloudEvents_type", message.type);
    headers_.emplace_back("cloudEvents_source", message.appId);
    headers_.emplace_back("cloudEvents_time", message.attributes->time);
    if (!message.attributes->key.empty()) {
      headers_.emplace_back("cloudEvents_partitionkey", message.attributes->key);
    }
    headers_.emplace_back(kLaneHeader, laneText(message.attributes->lane));
    if (!message.attributes->expiresAt.empty()) {
      headers_.emplace_back("cloudEvents_expirytime", message.attributes->expiresAt);
    }
    if (message.attributes->outboxId != 0) {
      char* const begin = outboxId_.data();
      const auto [end, error] =
          std::to_chars(begin, begin + outboxId_.size(), message.attributes->outboxId);
      headers_.emplace_back(kOutboxIdHeader, std::string_view(begin, end));
    }
  }
  headers_.insert(headers_.end(), message.headers.begin(), message.headers.end());
  return headers_;
}

}  // namespace pillion::amqp
