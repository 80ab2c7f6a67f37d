#include "outbox/row_columns.hpp"

#include <nlohmann/json.hpp>

#include "event/timestamp.hpp"
#include "outbox/cursor.hpp"

namespace pillion::outbox {

std::string eventColumns(Columns columns) {
  return columns == Columns::Needed ? kNeededColumns
                                    : std::string(kNeededColumns) + ", " + kFurtherColumns;
}

std::size_t eventColumnCount(Columns columns) {
  return kNeededColumnCount + (columns == Columns::All ? kFurtherColumnCount : 0);
}

Columns columnsOf(const Event& event, const Origin& origin) {
  const bool more = !origin.correlationId.empty() || !origin.causationId.empty() ||
                    !origin.trace.traceparent.empty() || !origin.trace.tracestate.empty() ||
                    event.expiresAt() || !event.headers().empty();
  return more ? Columns::All : Columns::Needed;
}

std::string textParameter(std::size_t number) {
  return "pg_catalog.convert_from($" + std::to_string(number) + "::pg_catalog.bytea, 'UTF8')";
}

std::string eventParameters(std::size_t& next, Columns columns) {
  std::string sql;
  const auto parameter = [&](const char* type) {
    sql += "$" + std::to_string(next++) + "::pg_catalog." + type + ", ";
  };
  const auto text = [&] { sql += textParameter(next++) + ", "; };
  const auto optionalText = [&](const char* type = "text") {
    sql += "nullif(" + textParameter(next++) + ", '')::pg_catalog." + type + ", ";
  };
  parameter("uuid");
  text();
  text();
  optionalText();
  parameter("timestamptz");
  text();
  parameter("bytea");
  if (columns == Columns::All) {
    for (int optional = 0; optional < 4; ++optional) optionalText();
    optionalText("timestamptz");
    optionalText();
  }
  sql.resize(sql.size() - 2);
  return sql;
}

void addEvent(postgres::Parameters& parameters, const Event& event, const Origin& origin,
              Columns columns) {
  parameters.addUuid(event.id());
  parameters.add(event.type());
  parameters.add(origin.source);
  parameters.add(event.key());
  parameters.addTime(event.time());
  parameters.add(event.contentType());
  parameters.add(event.bytes());
  if (columns == Columns::Needed) return;
  parameters.add(origin.correlationId);
  parameters.add(origin.causationId);
  parameters.add(origin.trace.traceparent);
  parameters.add(origin.trace.tracestate);
  parameters.add(event.expiresAt() ? toRfc3339(*event.expiresAt()) : std::string());
  parameters.add(event.headers().empty() ? std::string() : nlohmann::json(event.headers()).dump());
}

Row rowFrom(const pqxx::row& fields, int at) {
  const auto text = [&](int offset) { return postgres::textOf(fields[at + offset]); };
  Row row;
  row.id = postgres::integerOf(fields[at]);
  // Whatever a row says: arrays are indexed with it. As lane_of() and the sets of lanes read it.
  row.lane = static_cast<int>(postgres::integerOf(fields[at + 1]) & (kLanes - 1));
  row.eventId = text(2);
  row.type = text(3);
  row.source = text(4);
  row.key = text(5);
  row.time = text(6);
  row.contentType = text(7);
  row.correlationId = text(8);
  row.causationId = text(9);
  row.traceparent = text(10);
  row.tracestate = text(11);
  row.expiresAt = text(12);
  row.headers = text(13);
  row.payload = postgres::bytesOf(fields[at + 14]);
  return row;
}

}  // namespace pillion::outbox
