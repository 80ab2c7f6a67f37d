#include "amqp/message.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <nlohmann/json.hpp>

#include "event/event_check.hpp"
#include "event/event_id.hpp"
#include "event/timestamp.hpp"

namespace pillion::amqp {
namespace {

constexpr std::string_view kPrefix = "cloudEvents_";
constexpr std::string_view kOtherPrefix = "cloudEvents:";  // receivers should take both
constexpr std::string_view kCausationId = "pillion-causation-id";

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

std::string attribute(const Message& message, std::string_view name) {
  if (message.attributes && name == "time") return message.attributes->time;
  if (message.attributes && name == "partitionkey") return message.attributes->key;
  if (message.attributes && name == "expirytime") return message.attributes->expiresAt;
  const std::string* other = nullptr;
  for (const auto& [header, value] : message.headers) {
    if (!header.ends_with(name) || header.size() != kPrefix.size() + name.size()) continue;
    if (header.starts_with(kPrefix)) return value;
    if (other == nullptr && header.starts_with(kOtherPrefix)) other = &value;
  }
  return other != nullptr ? *other : std::string();
}

std::string firstOf(const std::string& a, const std::string& b) {
  return a.empty() ? b : a;
}

/// Seconds to the year 2200, well inside what the clock holds.
constexpr std::uint64_t kMostTime = 7'258'118'400;

Event::Time timeOf(const Message& message) {
  if (const auto time = fromRfc3339(attribute(message, "time"))) return *time;
  if (message.timestamp == 0) return {};
  return timeOfTimestamp(message.timestamp).value_or(Event::Time(std::chrono::seconds(kMostTime)));
}

void copyOwnHeaders(Event& event, const Message& message) {
  for (const auto& [name, value] : message.headers) {
    if (!isReservedHeader(name) && !isOfTheWay(name)) event.setHeader(name, value);
  }
}

bool isBoundedText(std::string_view text) {
  return isShort(text) && isUtf8Text(text);
}

std::optional<Problem> problemOfHeaders(const Message& message) {
  std::size_t total = 0;
  for (const auto& header : message.headers) {
    if (!isOfTheWay(header.first)) total += sizeOf(header);
  }
  if (total <= kMostHeaders) return std::nullopt;
  return Problem{"invalid-event", "headers of " + std::to_string(total) + " bytes; the limit is " +
                                      std::to_string(kMostHeaders)};
}

std::optional<Problem> problemOfBody(const Message& message) {
  const std::string* size = findHeader(message, kBodyMissingHeader);
  if (size == nullptr) return std::nullopt;
  return Problem{"invalid-event", "data of " + size->substr(0, 20) +
                                      " bytes, which was not kept; " + "the limit is " +
                                      std::to_string(EventLimits::kPayload)};
}

std::optional<Problem> problemOfJson(const std::string& body) {
  if (isTooDeep(body)) {
    return Problem{"invalid-event",
                   "JSON nested deeper than " + std::to_string(kJsonDepth) + " levels"};
  }
  const std::size_t values = shapeOf(body).values;
  if (values <= kJsonValues) return std::nullopt;
  return Problem{"invalid-event", "JSON of about " + std::to_string(values) +
                                      " values; the limit is " + std::to_string(kJsonValues)};
}

}  // namespace

std::optional<Event::Time> timeOfTimestamp(std::uint64_t timestamp) {
  if (timestamp == 0) return std::nullopt;
  if (timestamp <= kMostTime) return Event::Time(std::chrono::seconds(timestamp));
  if (timestamp / 1'000 > kMostTime) return std::nullopt;
  return Event::Time(std::chrono::milliseconds(timestamp));
}

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

std::variant<Identity, Problem> identityOf(const Message& message) {
  const auto invalid = [](const char* detail) { return Problem{"invalid-event", detail}; };
  Identity identity;
  identity.id = message.messageId;
  if (identity.id.empty()) identity.id = attribute(message, "id");
  if (identity.id.empty()) return invalid("no message_id");
  if (!isUuid(identity.id)) return invalid("message_id is not the text of a UUID");
  identity.id = normalizedUuid(identity.id);
  identity.type = message.type;
  if (identity.type.empty()) identity.type = attribute(message, "type");
  if (identity.type.empty()) identity.type = message.routingKey;
  if (identity.type.empty()) return invalid("no type and no routing key");
  if (!isBoundedText(identity.type)) return invalid("its type is not UTF-8 of 1 to 255 bytes");
  identity.source = message.appId;
  if (identity.source.empty()) identity.source = attribute(message, "source");
  if (!isBoundedText(identity.source)) return invalid("its source is not UTF-8 of 1 to 255 bytes");
  identity.key = attribute(message, "partitionkey");
  if (!isBoundedText(identity.key)) return invalid("its key is not UTF-8 of 1 to 255 bytes");
  if (auto problem = problemOfHeaders(message)) return *problem;
  if (auto problem = problemOfBody(message)) return *problem;
  return identity;
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
  addIfAny(message, std::string(kCausationId), std::move(row.causationId));
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

std::variant<Event, Problem> eventFrom(const Message& message) {
  auto identified = identityOf(message);
  if (const auto* problem = std::get_if<Problem>(&identified)) return *problem;
  auto& [id, source, key, type] = std::get<Identity>(identified);
  const std::string contentType = firstOf(message.contentType, "application/json");
  const bool json = isJsonContentType(contentType);
  if (json) {
    if (auto problem = problemOfJson(message.body)) return *problem;
  }
  Event event = Event::ofBytes(type, message.body, contentType);
  if (json && !event.isJson()) {
    return Problem{"invalid-event", "content type is JSON and the body is not"};
  }
  if (json && hasRepeatedNames(event.data(), shapeOf(message.body))) {
    return Problem{"invalid-event", "a JSON object in which a name occurs twice"};
  }
  event.setId(std::move(id))
      .setSource(std::move(source))
      .setKey(std::move(key))
      .setTime(timeOf(message))
      .setCorrelationId(message.correlationId);
  if (const auto expires = fromRfc3339(attribute(message, "expirytime"))) {
    event.setExpiresAt(*expires);
  }
  if (const auto* cause = findHeader(message, kCausationId)) event.setCausationId(*cause);
  const auto* parent = findHeader(message, "traceparent");
  const auto* state = findHeader(message, "tracestate");
  event.setTrace(parent != nullptr ? *parent : "", state != nullptr ? *state : "");
  copyOwnHeaders(event, message);
  return event;
}

}  // namespace pillion::amqp
