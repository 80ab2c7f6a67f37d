#include "event/event_check.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <pillion/error.hpp>

#include "base/printable.hpp"
#include "event/event_id.hpp"
#include "event/json_scan.hpp"

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
  const JsonVerdict verdict = verdictOf(event);
  if (!verdict.isJson) {
    throw InvalidEvent(
        "data", "is not JSON, which its content type '" + event.contentType() + "' says it is");
  }
  const JsonShape shape = shapeOf(bytes);
  if (shape.values > kJsonValues) {
    throw InvalidEvent("data", "holds about " + std::to_string(shape.values) +
                                   " JSON values; the limit is " + std::to_string(kJsonValues));
  }
  if (verdict.hasRepeatedNames) {
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
  const std::size_t end = findOutsideTexts(json, [&](std::size_t i) {
    if (json[i] == '[' || json[i] == '{') return ++depth > kJsonDepth;
    if ((json[i] == ']' || json[i] == '}') && depth > 0) --depth;
    return false;
  });
  return end < json.size();
}

JsonShape shapeOf(std::string_view json) {
  JsonShape shape;
  shape.values = 1;
  findOutsideTexts(json, [&](std::size_t i) {
    const char c = json[i];
    if (c == '[' || c == '{' || c == ',') ++shape.values;
    if (c == ':') ++shape.members;
    return false;
  });
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

/// An integer that does not fit has become a double of at least this.
bool hasHugeNumber(const nlohmann::json& value) {
  constexpr double kLeast = 9.2e18;
  if (value.is_number_float()) return std::abs(value.get<double>()) >= kLeast;
  return value.is_structured() && std::ranges::any_of(value, hasHugeNumber);
}

/// Without a fraction and without an exponent: those are approximate for every reader.
bool isWideInteger(std::string_view number) {
  if (number.find_first_of(".eE") != std::string_view::npos) return false;
  std::uint64_t positive = 0;
  std::int64_t negative = 0;
  const char* const end = number.data() + number.size();
  const auto result = number.starts_with('-') ? std::from_chars(number.data(), end, negative)
                                              : std::from_chars(number.data(), end, positive);
  return result.ec == std::errc::result_out_of_range;
}

}  // namespace

bool hasRoundedInteger(const nlohmann::json& parsed, std::string_view json) {
  static constexpr std::string_view kOfNumbers = "0123456789+-.eE";
  if (!hasHugeNumber(parsed)) return false;
  std::size_t numberEnd = 0;
  const std::size_t found = findOutsideTexts(json, [&](std::size_t i) {
    if (i < numberEnd || (json[i] != '-' && (json[i] < '0' || json[i] > '9'))) return false;
    numberEnd = std::min(json.find_first_not_of(kOfNumbers, i), json.size());
    return isWideInteger(json.substr(i, numberEnd - i));
  });
  return found < json.size();
}

bool hasRepeatedNames(const nlohmann::json& parsed, const JsonShape& shape) {
  return membersOf(parsed) != shape.members;
}

JsonVerdict verdictOf(const Event& event) {
  const JsonShape shape = shapeOf(event.bytes());
  if (event.isJson()) return {true, hasRepeatedNames(event.data(), shape)};
  const auto parsed = nlohmann::json::parse(event.bytes(), nullptr, /*allow_exceptions=*/false);
  if (parsed.is_discarded()) return {};
  return {true, hasRepeatedNames(parsed, shape)};
}

bool isReservedHeader(std::string_view name) {
  return name.starts_with("x-") || name.starts_with("cloudEvents") ||
         name.starts_with("pillion-") || name == "traceparent" || name == "tracestate" ||
         name == "CC" || name == "BCC";  // RabbitMQ routes by these, and wants lists
}

bool isUtf8Text(std::string_view text) {
  while (!text.empty()) {
    const std::size_t size = base::characterAt(text);
    if (size == 0 || text[0] == '\0') return false;
    text.remove_prefix(size);
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
