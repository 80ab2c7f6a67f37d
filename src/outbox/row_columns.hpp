#pragma once

#include <pqxx/pqxx>

#include "event/row.hpp"

namespace pillion::outbox {

/// The columns of a Row in its order, as the functions that read the outbox give them, too.
inline constexpr const char* kRowColumns =
    "id, lane, event_id, type, source, key, to_char(time at time zone 'UTC',"
    " 'YYYY-MM-DD HH24:MI:SS.US') as time, content_type, correlation_id, causation_id, "
    "traceparent, tracestate, headers, payload";

/// Reads them back, beginning at column `at`.
Row rowFrom(const pqxx::row& fields, int at);

}  // namespace pillion::outbox
