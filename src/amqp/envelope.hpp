#pragma once

#include <string>
#include <string_view>
#include <variant>

#include "amqp/message.hpp"

namespace pillion::amqp {

/// An event whose attributes are in the body (CloudEvents 1.0.2, JSON event format). Attributes
/// that are not there, or null, are empty.
struct Envelope {
  std::string id;
  std::string source;
  std::string type;
  std::string time;
  std::string key;
  std::string expiresAt;
  std::string traceparent;
  std::string tracestate;
  std::string contentType;  // of the data
  std::string_view data;    // as it stands in the body; empty: none
  bool isBase64 = false;
};

/// How a message carries its event, by the content type.
enum class Mode { Binary, Structured, Batch, OtherFormat };
Mode modeOf(const Message& message);

/// The data borrows from the body.
std::variant<Envelope, Problem> envelopeFrom(std::string_view body);

/// What the event carries: the JSON as it stands, or the text or the bytes that are in it.
std::variant<std::string, Problem> dataOf(const Envelope& envelope);

}  // namespace pillion::amqp
