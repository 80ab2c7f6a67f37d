#pragma once

#include <cstddef>
#include <pillion/event.hpp>
#include <pillion/options.hpp>
#include <pqxx/pqxx>
#include <string>

#include "event/row.hpp"
#include "postgres/statement.hpp"

namespace pillion::outbox {

/// The columns of a Row in its order, as the functions that read the outbox give them, too.
inline constexpr const char* kRowColumns =
    "id, lane, event_id, type, source, key, to_char(time at time zone 'UTC',"
    " 'YYYY-MM-DD HH24:MI:SS.US') as time, content_type, correlation_id, causation_id, traceparent,"
    " tracestate, to_char(expires_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') as expires_at,"
    " headers, payload";

/// Where an event comes from, as it is written: its own attributes, and for what it leaves open the
/// publisher's, or those of the event whose handler publishes it.
struct Origin {
  std::string_view source;
  std::string_view correlationId;
  std::string_view causationId;
  TraceContext trace = {};
};

/// The columns that a publisher writes, of `outbox` and `scheduled` alike. Most events have nothing
/// for the further ones, and writing NULL costs the server nearly as much as writing a value.
enum class Columns { Needed, All };
inline constexpr const char* kNeededColumns =
    "event_id, type, source, key, time, content_type, payload";
inline constexpr std::size_t kNeededColumnCount = 7;
inline constexpr std::size_t kKeyColumn = 3;
inline constexpr const char* kFurtherColumns =
    "correlation_id, causation_id, traceparent, tracestate, expires_at, headers";
inline constexpr std::size_t kFurtherColumnCount = 6;

std::string eventColumns(Columns columns);
std::size_t eventColumnCount(Columns columns);
/// Those that this event needs.
Columns columnsOf(const Event& event, const Origin& origin);
/// A parameter that is UTF-8, whatever encoding the connection has: it is a service's own, and its
/// encoding is set by PGCLIENTENCODING, its role, its pool or a statement. A text parameter would
/// be taken for text in that encoding, which makes other letters of it, and of a key another lane.
std::string textParameter(std::size_t number);
/// Their values as parameters of a statement, beginning with number `next`, which is moved on.
/// Names of PostgreSQL's own say so, since a role's search path may lead to others of the same
/// name.
std::string eventParameters(std::size_t& next, Columns columns);
/// Appends them.
void addEvent(postgres::Parameters& parameters, const Event& event, const Origin& origin,
              Columns columns);

/// Reads the columns of a Row back, beginning at column `at`.
Row rowFrom(const pqxx::row& fields, int at);

}  // namespace pillion::outbox
