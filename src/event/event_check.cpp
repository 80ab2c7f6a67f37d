#include "event/event_check.hpp"

#include <array>
#include <cmath>
#include <pillion/error.hpp>

#include "event/event_id.hpp"

namespace pillion {
namespace {

[[noreturn]] void tooLong(std::string_view field, std::size_t size, std::size_t limit) {
  throw InvalidEvent(std::string(field), "is " + std::to_string(size) +
                                             " bytes long; the limit is " + std::to_string(limit) +
                                             " bytes");
}

void checkText(std::string_view field, std::string_view value, std::size_t limit) {
  if (value.size() > limit) tooLong(field, value.size(), limit);
  if (!isUtf8Text(value)) {
    throw InvalidEvent(std::string(field), "is not UTF-8 text without NUL bytes");
  }
}

void checkRequired(std::string_view field, std::string_view value) {
  if (value.empty()) throw InvalidEvent(std::string(field), "is empty; 1 to 255 bytes are needed");
  checkText(field, value, EventLimits::kShortString);
}

void checkTypeWords(std::string_view type) {
  for (const char c : type) {
    if (static_cast<unsigned char>(c) <= ' ' || c == '*' || c == '#' || c == 0x7F) {
      throw InvalidEvent("type",
                         "holds a blank, a control character, '*' or '#'; it is a routing key of "
                         "words separated by dots, such as product.created");
    }
  }
}

bool isLowerHex(std::string_view text) {
  for (const char c : text) {
    if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'))) return false;
  }
  return true;
}

void checkHeaders(const Event::Headers& headers) {
  std::size_t total = 0;
  for (const auto& [name, value] : headers) {
    if (name.empty()) throw InvalidEvent("headers", "has a header without a name");
    checkText("headers (a name)", name, EventLimits::kShortString);
    if (isReservedHeader(name)) {
      throw InvalidEvent("headers", "has the header '" + name +
                                        "', a name that AMQP, CloudEvents or Pillion uses");
    }
    checkText("headers (value of '" + name + "')", value, EventLimits::kHeaders);
    total += name.size() + value.size() + kHeaderOverhead;
  }
  if (total > EventLimits::kHeaders) tooLong("headers", total, EventLimits::kHeaders);
}

[[noreturn]] void tooDeep() {
  throw InvalidEvent("data", "is nested deeper than " + std::to_string(kJsonDepth) + " levels");
}

void checkForm(const nlohmann::json& value, std::size_t level) {
  if (value.is_discarded()) {
    throw InvalidEvent("data", "holds a discarded JSON value: a text that could not be parsed");
  }
  if (value.is_binary()) {
    throw InvalidEvent("data",
                       "holds a binary value, for which JSON has no form; write it as a text, or "
                       "make the event of bytes");
  }
  if (value.is_number_float() && !std::isfinite(value.get<double>())) {
    throw InvalidEvent("data", "holds a number that is not finite, for which JSON has no form");
  }
  if (!value.is_structured()) return;
  if (level == kJsonDepth) tooDeep();
  for (const auto& inner : value) checkForm(inner, level + 1);
}

/// Consumers refuse what is no JSON by a JSON content type, so it must not be written.
void checkData(const Event& event, std::size_t maxPayload) {
  const std::string& bytes = event.bytes();
  if (bytes.size() > maxPayload) tooLong("data", bytes.size(), maxPayload);
  if (!isJsonContentType(event.contentType())) return;
  if (isTooDeep(bytes)) tooDeep();
  if (!event.isJson()) {
    throw InvalidEvent(
        "data", "is not JSON, which its content type '" + event.contentType() + "' says it is");
  }
  const JsonShape shape = shapeOf(bytes);
  if (shape.values > kJsonValues) {
    throw InvalidEvent("data", "holds about " + std::to_string(shape.values) +
                                   " JSON values; the limit is " + std::to_string(kJsonValues));
  }
  if (hasRepeatedNames(event.data(), shape)) {
    throw InvalidEvent("data", "has a JSON object in which a name occurs twice");
  }
}

void checkTime(std::string_view field, Event::Time time) {
  using std::chrono::sys_days;
  using std::chrono::year;
  if (time < sys_days(year(1970) / 1 / 1) || time >= sys_days(year(2200) / 1 / 1)) {
    throw InvalidEvent(std::string(field), "is outside the years 1970 to 2199");
  }
}

/// Consumers measure their dedupe window from the time in the id; the shortest is a day.
void checkDue(std::string_view id, Event::Time due) {
  checkTime("deliverAt", due);
  if (isMadeLongBefore(id, due)) {
    throw InvalidEvent("id",
                       "carries a time that is more than 12 hours before deliverAt, so consumers "
                       "would take the event for one they may have forgotten; leave the id out, or "
                       "make it with the due time");
  }
}

}  // namespace

/// W3C Trace Context 3.2.2: version "-" trace-id "-" parent-id "-" flags.
bool isTraceParent(std::string_view parent) {
  return parent.size() == 55 && parent[2] == '-' && parent[35] == '-' && parent[52] == '-' &&
         isLowerHex(parent.substr(0, 2)) && isLowerHex(parent.substr(3, 32)) &&
         isLowerHex(parent.substr(36, 16)) && isLowerHex(parent.substr(53, 2));
}

bool isTraceState(std::string_view state) {
  return state.size() <= EventLimits::kTraceState && isUtf8Text(state);
}

void checkTrace(std::string_view parent, std::string_view state) {
  if (!parent.empty() && !isTraceParent(parent)) {
    throw InvalidEvent("traceparent", "is " + std::to_string(parent.size()) +
                                          " bytes and not of the form 00-<32 hex>-<16 hex>-<2 "
                                          "hex> (W3C Trace Context)");
  }
  checkText("tracestate", state, EventLimits::kTraceState);
}

void checkJsonForm(const nlohmann::json& data) {
  checkForm(data, 0);
}

bool isTooDeep(std::string_view json) {
  std::size_t depth = 0;
  bool inText = false;
  for (std::size_t i = 0; i < json.size(); ++i) {
    const char c = json[i];
    if (inText) {
      if (c == '\\') ++i;
      if (c == '"') inText = false;
    } else if (c == '"') {
      inText = true;
    } else if (c == '[' || c == '{') {
      if (++depth > kJsonDepth) return true;
    } else if ((c == ']' || c == '}') && depth > 0) {
      --depth;
    }
  }
  return false;
}

JsonShape shapeOf(std::string_view json) {
  JsonShape shape;
  shape.values = 1;
  bool inText = false;
  for (std::size_t i = 0; i < json.size(); ++i) {
    const char c = json[i];
    if (inText) {
      if (c == '\\') ++i;
      if (c == '"') inText = false;
      continue;
    }
    switch (c) {
      case '"':
        inText = true;
        break;
      case '[':
      case '{':
      case ',':
        ++shape.values;
        break;
      case ':':
        ++shape.members;
        break;
      default:
        break;
    }
  }
  return shape;
}

namespace {

std::size_t membersOf(const nlohmann::json& value) {
  std::size_t members = value.is_object() ? value.size() : 0;
  if (value.is_structured()) {
    for (const auto& inner : value) members += membersOf(inner);
  }
  return members;
}

}  // namespace

bool hasRepeatedNames(const nlohmann::json& parsed, const JsonShape& shape) {
  return membersOf(parsed) != shape.members;
}

bool isReservedHeader(std::string_view name) {
  return name.starts_with("x-") || name.starts_with("cloudEvents") ||
         name.starts_with("pillion-") || name == "traceparent" || name == "tracestate" ||
         name == "CC" || name == "BCC";  // RabbitMQ routes by these, and wants lists
}

bool isUtf8Text(std::string_view text) {
  static constexpr std::array<std::uint32_t, 4> kLeast{0, 0x80, 0x800, 0x10000};
  for (std::size_t at = 0; at < text.size();) {
    const auto lead = static_cast<unsigned char>(text[at++]);
    if (lead == 0) return false;
    if (lead < 0x80) continue;
    const std::size_t more = lead >= 0xF0 ? 3 : lead >= 0xE0 ? 2 : 1;
    if (lead < 0xC2 || lead > 0xF4 || text.size() - at < more) return false;
    std::uint32_t point = lead & (0x3FU >> more);
    for (std::size_t i = 0; i < more; ++i) {
      const auto next = static_cast<unsigned char>(text[at++]);
      if ((next & 0xC0U) != 0x80) return false;
      point = (point << 6U) | (next & 0x3FU);
    }
    if (point < kLeast[more] || point > 0x10FFFF || (point >= 0xD800 && point <= 0xDFFF)) {
      return false;
    }
  }
  return true;
}

void checkEvent(const Event& event, std::string_view source, std::size_t maxPayload) {
  if (!isUuid(event.id())) {
    throw InvalidEvent(
        "id", "is " + std::to_string(event.id().size()) + " bytes and not the text of a UUID");
  }
  checkRequired("type", event.type());
  checkTypeWords(event.type());
  checkRequired("source", source);
  checkText("key", event.key(), EventLimits::kShortString);
  checkRequired("contentType", event.contentType());
  checkText("correlationId", event.correlationId(), EventLimits::kShortString);
  checkText("causationId", event.causationId(), EventLimits::kShortString);
  checkTrace(event.traceparent(), event.tracestate());
  checkHeaders(event.headers());
  checkTime("time", event.time());
  if (event.deliverAt()) checkDue(event.id(), *event.deliverAt());
  if (event.expiresAt()) checkTime("expiresAt", *event.expiresAt());
  checkData(event, maxPayload);
}

}  // namespace pillion
