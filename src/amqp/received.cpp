#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "amqp/content.hpp"
#include "amqp/envelope.hpp"
#include "amqp/message.hpp"
#include "base/printable.hpp"
#include "event/event_check.hpp"
#include "event/event_id.hpp"
#include "event/timestamp.hpp"

namespace pillion::amqp {
namespace {

Problem invalid(std::string detail) {
  return {"invalid-event", std::move(detail)};
}

/// Of CloudEvents headers, in the order in which they are believed: the binding's own two, then
/// those of frameworks that write HTTP's (`ce-`), Kafka's (`ce_`) or none. Names that common are an
/// event's only beside a `specversion`.
constexpr std::array<std::string_view, 5> kPrefixes{"cloudEvents_", "cloudEvents:", "ce-", "ce_",
                                                    ""};
constexpr std::size_t kOwnPrefixes = 2;

std::string attribute(const Message& message, std::string_view name) {
  if (message.attributes && name == "time") return message.attributes->time;
  if (message.attributes && name == "partitionkey") return message.attributes->key;
  if (message.attributes && name == "expirytime") return message.attributes->expiresAt;
  std::array<const std::string*, kPrefixes.size()> found{};
  for (const auto& [header, value] : message.headers) {
    if (!header.ends_with(name)) continue;
    const auto prefix = std::string_view(header).substr(0, header.size() - name.size());
    const auto* const at = std::ranges::find(kPrefixes, prefix);
    if (at == kPrefixes.end()) continue;
    const std::string*& first = found[static_cast<std::size_t>(at - kPrefixes.begin())];
    if (first == nullptr) first = &value;
  }
  for (std::size_t i = 0; i < found.size(); ++i) {
    if (found[i] == nullptr) continue;
    const auto version = std::string(kPrefixes[i]) + "specversion";
    if (i < kOwnPrefixes || findHeader(message, version) != nullptr) return *found[i];
  }
  return {};
}

/// RabbitMQ up to 3.12 has made it of AMQP 1.0, and says in `type` of what kind the body was.
bool cameByAmqp10(const Message& message) {
  return findHeader(message, "x-amqp-1.0-properties") != nullptr;
}

std::string typeOf(const Message& message) {
  const bool saysNothing = message.type == "binary" && cameByAmqp10(message);
  if (!message.type.empty() && !saysNothing) return message.type;
  std::string type = attribute(message, "type");
  return type.empty() ? message.routingKey : type;
}

/// Seconds to the year 2200, well inside what the clock holds.
constexpr std::uint64_t kMostTime = 7'258'118'400;

Event::Time timeOf(const Message& message, const std::string& text) {
  if (const auto time = fromRfc3339(text)) return *time;
  if (message.timestamp == 0) return {};
  return timeOfTimestamp(message.timestamp).value_or(Event::Time(std::chrono::seconds(kMostTime)));
}

void copyOwnHeaders(Event& event, const Message& message) {
  for (const auto& [name, value] : message.headers) {
    if (!isReservedHeader(name) && !isOfTheWay(name)) event.setHeader(name, value);
  }
}

std::optional<Problem> problemOfHeaders(const Message& message) {
  std::size_t total = 0;
  for (const auto& header : message.headers) {
    if (!isOfTheWay(header.first)) total += sizeOf(header);
  }
  if (total <= kMostHeaders) return std::nullopt;
  return invalid("headers of " + std::to_string(total) + " bytes; the limit is " +
                 std::to_string(kMostHeaders));
}

std::optional<Problem> problemOfBody(const Message& message) {
  const std::string* size = findHeader(message, kBodyMissingHeader);
  if (size == nullptr) return std::nullopt;
  return invalid("data of " + base::printable(size->substr(0, 20)) +
                 " bytes, which was not kept; the limit is " +
                 std::to_string(EventLimits::kPayload));
}

std::optional<Problem> problemOfMode(const Message& message, Mode mode) {
  const std::string named = "content type " + base::quoted(message.contentType);
  if (mode == Mode::Batch) {
    return invalid(named + ": batches of CloudEvents are not read, send each event by itself");
  }
  if (mode == Mode::OtherFormat) {
    return invalid(named + ": of the CloudEvents formats only JSON is read");
  }
  if (message.type == "amqp-1.0") {
    return invalid(
        "its body is AMQP 1.0 sections, which RabbitMQ has left as they were; send it as one data"
        " section");
  }
  return std::nullopt;
}

/// Whose envelope it is in when it lacks what makes an event: such are not taken apart.
std::string envelopeOfOthers(const Message& message) {
  const char* whose = nullptr;
  if (bareContentType(message.contentType).starts_with("application/vnd.masstransit")) {
    whose = "MassTransit";
  }
  const auto isNServiceBus = [](const auto& header) {
    return header.first.starts_with("NServiceBus.");
  };
  if (std::ranges::any_of(message.headers, isNServiceBus)) whose = "NServiceBus";
  if (whose == nullptr) return "";
  return std::string("; the envelope of ") + whose + " is not read";
}

std::optional<Problem> problemOfText(const char* what, std::string_view text) {
  if (text.size() > EventLimits::kShortString) {
    return invalid(std::string("its ") + what + " is " + std::to_string(text.size()) +
                   " bytes long; the limit is " + std::to_string(EventLimits::kShortString));
  }
  if (isUtf8Text(text)) return std::nullopt;
  return invalid(std::string("its ") + what + " " + base::quoted(text) +
                 " is not UTF-8 text without NUL bytes");
}

/// `where`: what its id is called there.
std::optional<Problem> problemOf(Identity& identity, const std::string& where,
                                 const Message& message) {
  if (identity.id.empty()) return invalid("it has no id: no " + where + envelopeOfOthers(message));
  const auto uuid = uuidFrom(identity.id);
  if (!uuid) return invalid(where + " " + base::quoted(identity.id) + " is not the text of a UUID");
  identity.id = *uuid;
  if (identity.type.empty()) {
    return invalid("it has no type, and no routing key" + envelopeOfOthers(message));
  }
  if (auto problem = problemOfText("type", identity.type)) return problem;
  if (auto problem = problemOfText("source", identity.source)) return problem;
  return problemOfText("key", identity.key);
}

struct Received {
  Identity identity;
  std::optional<Envelope> envelope;  // when the attributes are in the body
};

Received fromHeaders(const Message& message) {
  const auto either = [&](const std::string& property, const char* name) {
    return property.empty() ? attribute(message, name) : property;
  };
  return {{either(message.messageId, "id"), either(message.appId, "source"),
           attribute(message, "partitionkey"), typeOf(message)},
          {}};
}

Received fromEnvelope(Envelope&& envelope) {
  return {{envelope.id, envelope.source, envelope.key, envelope.type}, std::move(envelope)};
}

/// `room` holds the body when it had to be inflated. A structured message is read twice, now and
/// when it is its turn: its parts would take more memory than it does while it waits.
std::variant<Received, Problem> receivedFrom(const Message& message, std::string& room) {
  const Mode mode = modeOf(message);
  if (auto problem = problemOfBody(message)) return *problem;
  if (auto problem = problemOfMode(message, mode)) return *problem;
  Received received;
  if (mode == Mode::Structured) {
    const auto content = contentOf(message, room);
    if (const auto* problem = std::get_if<Problem>(&content)) return *problem;
    auto envelope = envelopeFrom(std::get<std::string_view>(content));
    if (const auto* problem = std::get_if<Problem>(&envelope)) return *problem;
    received = fromEnvelope(std::get<Envelope>(std::move(envelope)));
  } else {
    received = fromHeaders(message);
  }
  const char* where = mode == Mode::Structured ? "id in its CloudEvents envelope" : "message_id";
  if (auto problem = problemOf(received.identity, where, message)) return *problem;
  if (auto problem = problemOfHeaders(message)) return *problem;
  return received;
}

/// Of an event that says it is JSON.
std::optional<Problem> problemOfData(const Event& event) {
  const JsonVerdict verdict = verdictOf(event);
  if (!verdict.isJson) return notJson(event.bytes(), "its data, of a JSON content type,");
  if (verdict.hasRepeatedNames) return invalid("a JSON object in which a name occurs twice");
  return std::nullopt;
}

/// The data and the type of its content. An empty body without a content type is no data, which
/// CloudEvents allows; an empty one that is said to be JSON is a mistake.
struct Data {
  std::string bytes;
  std::string contentType;
  bool isThere = true;
};

std::variant<Data, Problem> dataFrom(const Message& message, const Received& received,
                                     std::string& room) {
  Data data;
  if (received.envelope) {
    auto bytes = dataOf(*received.envelope);
    if (const auto* problem = std::get_if<Problem>(&bytes)) return *problem;
    data = {std::get<std::string>(std::move(bytes)), received.envelope->contentType,
            !received.envelope->data.empty()};
  } else {
    const auto content = contentOf(message, room);
    if (const auto* problem = std::get_if<Problem>(&content)) return *problem;
    data = {
        std::string(std::get<std::string_view>(content)),
        message.contentType.empty() ? attribute(message, "datacontenttype") : message.contentType};
    data.isThere = !data.bytes.empty() || !data.contentType.empty();
  }
  if (data.isThere && data.contentType.empty()) data.contentType = "application/json";
  return data;
}

/// What an event can do without.
void tellRest(Event& event, const Message& message, const std::optional<Envelope>& envelope) {
  event.setTime(timeOf(message, envelope ? envelope->time : attribute(message, "time")));
  const std::string expiry = envelope ? envelope->expiresAt : attribute(message, "expirytime");
  if (const auto expires = fromRfc3339(expiry)) event.setExpiresAt(*expires);
  if (const auto* cause = findHeader(message, kCausationIdHeader)) event.setCausationId(*cause);
  const auto* parent = findHeader(message, "traceparent");
  const auto* state = findHeader(message, "tracestate");
  if (envelope && !envelope->traceparent.empty()) {
    parent = &envelope->traceparent;
    state = &envelope->tracestate;
  }
  event.setTrace(parent != nullptr ? *parent : "", state != nullptr ? *state : "");
}

}  // namespace

std::optional<Event::Time> timeOfTimestamp(std::uint64_t timestamp) {
  if (timestamp == 0) return std::nullopt;
  if (timestamp <= kMostTime) return Event::Time(std::chrono::seconds(timestamp));
  if (timestamp / 1'000 > kMostTime) return std::nullopt;
  return Event::Time(std::chrono::milliseconds(timestamp));
}

std::variant<Identity, Problem> identityOf(const Message& message) {
  std::string room;
  auto received = receivedFrom(message, room);
  if (const auto* problem = std::get_if<Problem>(&received)) return *problem;
  return std::get<Received>(std::move(received)).identity;
}

std::variant<Event, Problem> eventFrom(const Message& message) {
  std::string room;
  auto read = receivedFrom(message, room);
  if (const auto* problem = std::get_if<Problem>(&read)) return *problem;
  auto& received = std::get<Received>(read);
  auto& [id, source, key, type] = received.identity;
  auto data = dataFrom(message, received, room);
  if (const auto* problem = std::get_if<Problem>(&data)) return *problem;
  auto& [bytes, contentType, isThere] = std::get<Data>(data);
  const bool isJson = isThere && isJsonContentType(contentType);
  if (isJson) {
    if (auto problem = problemOfJson(bytes, "its data")) return *problem;
  }
  Event event = Event::ofBytes(std::move(type), std::move(bytes), std::move(contentType));
  if (isJson) {
    if (auto problem = problemOfData(event)) return *problem;
  }
  event.setId(std::move(id))
      .setSource(std::move(source))
      .setKey(std::move(key))
      .setCorrelationId(message.correlationId);
  copyOwnHeaders(event, message);
  tellRest(event, message, received.envelope);
  return event;
}

}  // namespace pillion::amqp
