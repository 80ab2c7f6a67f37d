#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <pillion/event.hpp>

namespace pillion {

/// Holds an event to every limit of the wire and of the table. Throws InvalidEvent naming the first
/// field that breaks one. `source` is what will be written as the event's source.
void checkEvent(const Event& event, std::string_view source, std::size_t maxPayload);

/// Holds a trace to the form of W3C Trace Context; empty is none.
void checkTrace(std::string_view traceparent, std::string_view tracestate);

/// The same as questions, for a trace that came with a message.
bool isTraceParent(std::string_view traceparent);
bool isTraceState(std::string_view tracestate);

/// Is this a header name that Pillion or the broker uses itself?
bool isReservedHeader(std::string_view name);

/// What a header takes on the wire beside its own bytes: two lengths and a kind (AMQP
/// 0-9-1, 4.2.5.5).
inline constexpr std::size_t kHeaderOverhead = 6;

/// Deepest nesting that every consumer takes: deeper JSON is an attack on the parser.
inline constexpr std::size_t kJsonDepth = 256;

/// Is this JSON text nested deeper than kJsonDepth? Looks at brackets only, so that it can be asked
/// before anything is parsed.
bool isTooDeep(std::string_view json);

/// Holds a JSON value to what JSON text can say: nlohmann::json writes NaN as `null`, a binary
/// value as an object and a discarded one as `<discarded>` without a word, and goes down the levels
/// by recursion. Throws InvalidEvent for `data`.
void checkJsonForm(const nlohmann::json& data);

/// Most values in one JSON text. Each takes some 40 bytes when it is parsed, whatever it takes as
/// text: `[[],[],…]` of 16 MiB would need half a gigabyte.
inline constexpr std::size_t kJsonValues = 1'000'000;

/// What can be counted without parsing: values (at least so many as there are) and members of
/// objects.
struct JsonShape {
  std::size_t values = 0;
  std::size_t members = 0;
};
JsonShape shapeOf(std::string_view json);

/// Does it hold an integer of more than 64 bits, which nlohmann::json has rounded? `parsed` is what
/// it made of the text.
bool hasRoundedInteger(const nlohmann::json& parsed, std::string_view json);

/// Does an object of it hold a name twice? Readers disagree about which of the two counts (RFC
/// 8259, section 4). `shape` is that of the text it was parsed from.
bool hasRepeatedNames(const nlohmann::json& parsed, const JsonShape& shape);

/// What an event's bytes are as JSON, also those that data() does not give out.
struct JsonVerdict {
  bool isJson = false;
  bool hasRepeatedNames = false;
};
JsonVerdict verdictOf(const Event& event);

/// Strictly UTF-8 (RFC 3629), without the NUL that PostgreSQL's text refuses.
bool isUtf8Text(std::string_view text);

}  // namespace pillion
