#include "amqp/envelope.hpp"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "amqp/content.hpp"
#include "base/printable.hpp"
#include "event/event_check.hpp"
#include "event/json_scan.hpp"

namespace pillion::amqp {
namespace {

using nlohmann::json;

constexpr const char* kWhat = "its CloudEvents envelope";

Problem invalid(const std::string& detail) {
  return {"invalid-event", detail};
}

bool isBlank(char c) {
  return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && isBlank(text.front())) text.remove_prefix(1);
  while (!text.empty() && isBlank(text.back())) text.remove_suffix(1);
  return text;
}

/// Where the value ends that this begins with: at a comma, colon or bracket outside of it.
std::size_t endOfValue(std::string_view text) {
  std::size_t depth = 0;
  return findOutsideTexts(text, [&](std::size_t i) {
    const char c = text[i];
    if (c == '[' || c == '{') ++depth;
    if (c == ']' || c == '}') return depth-- == 0;
    return (c == ',' || c == ':') && depth == 0;
  });
}

using Members = std::vector<std::pair<std::string, std::string_view>>;

/// Names and values of an object that is well-formed JSON, without building the values: the data
/// keeps its text, and what waits in a queue takes no more memory than its message.
Members membersOf(std::string_view object) {
  Members members;
  std::string_view left = trimmed(object).substr(1);
  while (!trimmed(left).starts_with('}')) {
    const std::size_t nameEnd = endOfValue(left);
    const std::string name = json::parse(trimmed(left.substr(0, nameEnd)));
    left.remove_prefix(nameEnd + 1);
    const std::size_t valueEnd = endOfValue(left);
    members.emplace_back(name, trimmed(left.substr(0, valueEnd)));
    left.remove_prefix(valueEnd + (left[valueEnd] == ',' ? 1 : 0));
  }
  return members;
}

std::optional<Problem> problemOfForm(std::string_view body) {
  if (auto problem = problemOfJson(body, kWhat)) return problem;
  if (!json::accept(body)) return notJson(body, kWhat);
  if (!trimmed(body).starts_with('{')) return invalid(std::string(kWhat) + " is no JSON object");
  return std::nullopt;
}

/// The text of an attribute; nothing when it is no JSON string.
std::optional<std::string> textOf(std::string_view value) {
  if (value == "null") return "";
  if (!value.starts_with('"')) return std::nullopt;
  return json::parse(value).get<std::string>();
}

std::optional<std::string> fromBase64(std::string_view text) {
  static constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  while (text.ends_with('=')) text.remove_suffix(1);
  if (text.size() % 4 == 1) return std::nullopt;
  std::string bytes;
  bytes.reserve(text.size() * 3 / 4);
  std::uint32_t bits = 0;
  int count = 0;
  for (const char c : text) {
    const std::size_t digit = kDigits.find(c);
    if (digit == std::string_view::npos) return std::nullopt;
    bits = (bits << 6U) | static_cast<std::uint32_t>(digit);
    count += 6;
    if (count < 8) continue;
    count -= 8;
    bytes += static_cast<char>((bits >> static_cast<unsigned>(count)) & 0xFFU);
  }
  return bytes;
}

}  // namespace

Mode modeOf(const Message& message) {
  static constexpr std::string_view kOne = "application/cloudevents";
  static constexpr std::string_view kBatch = "application/cloudevents-batch";
  // Most are none of these, and cost no copy.
  if (message.contentType.size() < kOne.size() || (message.contentType[0] | 0x20) != 'a') {
    return Mode::Binary;
  }
  const std::string type = bareContentType(message.contentType);
  if (type.starts_with(kBatch)) return Mode::Batch;
  if (!type.starts_with(kOne)) return Mode::Binary;
  const std::string_view format = std::string_view(type).substr(kOne.size());
  if (format == "+json") return Mode::Structured;
  return format.empty() || format.starts_with('+') ? Mode::OtherFormat : Mode::Binary;
}

std::variant<Envelope, Problem> envelopeFrom(std::string_view body) {
  if (auto problem = problemOfForm(body)) return *problem;
  Envelope envelope;
  std::string version;
  const std::array<std::pair<std::string_view, std::string*>, 10> texts{
      {{"id", &envelope.id},
       {"source", &envelope.source},
       {"type", &envelope.type},
       {"specversion", &version},
       {"time", &envelope.time},
       {"partitionkey", &envelope.key},
       {"expirytime", &envelope.expiresAt},
       {"traceparent", &envelope.traceparent},
       {"tracestate", &envelope.tracestate},
       {"datacontenttype", &envelope.contentType}}};
  std::set<std::string> seen;
  for (const auto& [name, value] : membersOf(body)) {
    if (!seen.insert(name).second) {
      return invalid(std::string(kWhat) + " has the name " + base::quoted(name) + " twice");
    }
    if (name == "data" || (name == "data_base64" && value != "null")) {
      if (!envelope.data.empty()) return invalid(std::string(kWhat) + " has data twice");
      envelope.data = value;
      envelope.isBase64 = name == "data_base64";
    }
    const auto known = std::ranges::find(texts, name, [](const auto& text) { return text.first; });
    if (known == texts.end()) continue;
    const auto text = textOf(value);
    if (!text) return invalid(std::string(kWhat) + ": " + name + " is not a JSON string");
    *known->second = *text;
  }
  if (version != "1.0") {
    return invalid(std::string(kWhat) + ": specversion is " + base::quoted(version) +
                   "; only '1.0' is read");
  }
  return envelope;
}

std::variant<std::string, Problem> dataOf(const Envelope& envelope) {
  const bool isJson = envelope.contentType.empty() || isJsonContentType(envelope.contentType);
  if (!envelope.isBase64 && isJson) return std::string(envelope.data);
  if (envelope.data.empty() || envelope.data == "null") return std::string();
  const char* name = envelope.isBase64 ? "data_base64" : "data";
  const auto text = textOf(envelope.data);
  if (!text) {
    return invalid(std::string(kWhat) + ": " + name +
                   " is not a JSON string, and its content "
                   "type is " +
                   base::quoted(envelope.contentType));
  }
  if (!envelope.isBase64) return *text;
  auto bytes = fromBase64(*text);
  if (!bytes) return invalid(std::string(kWhat) + ": data_base64 is no base64 (RFC 4648)");
  return *std::move(bytes);
}

}  // namespace pillion::amqp
