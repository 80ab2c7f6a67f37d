#pragma once

#include <pqxx/pqxx>

#include "event/row.hpp"

namespace pillion::outbox {

/// The columns of a Row in its order, for `outbox` and `parked` alike.
inline constexpr const char* kRowColumns =
    "id, lane, event_id, type, source, key, time at time zone 'UTC' as time, content_type,"
    " correlation_id, causation_id, traceparent, tracestate, headers, payload";

/// Reads them back, beginning at column `at`.
Row rowFrom(const pqxx::row& fields, int at);

}  // namespace pillion::outbox
