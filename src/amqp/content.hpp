#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "amqp/message.hpp"

namespace pillion::amqp {

/// The body of a message without its content encoding: inflated into `room` when that is gzip, else
/// the body itself. `utf-8` and the like, which many libraries write there, are charsets and change
/// nothing. A Problem for any other encoding, also when the content type is not JSON: a handler
/// cannot see the encoding, and would take the encoded bytes for the data.
std::variant<std::string_view, Problem> contentOf(const Message& message, std::string& room);

/// Without parameters, in lower case.
std::string bareContentType(std::string_view contentType);

/// Holds what is said to be JSON to it, and to its bounds. `what` begins the Problem's detail.
std::optional<Problem> problemOfJson(std::string_view json, std::string_view what);

/// The same of what parsers can say only when they have parsed it.
Problem notJson(std::string_view text, std::string_view what);

}  // namespace pillion::amqp
