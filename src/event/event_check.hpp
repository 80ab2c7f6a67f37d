#pragma once

#include <cstddef>
#include <pillion/event.hpp>

namespace pillion {

/// Holds an event to every limit of the wire and of the table. Throws InvalidEvent naming the first
/// field that breaks one. `source` is what will be written as the event's source.
void checkEvent(const Event& event, std::string_view source, std::size_t maxPayload);

/// Is this a header name that Pillion or the broker uses itself?
bool isReservedHeader(std::string_view name);

/// Strictly UTF-8 (RFC 3629), without the NUL that PostgreSQL's text refuses.
bool isUtf8Text(std::string_view text);

}  // namespace pillion
