#include "event/row.hpp"

#include <nlohmann/json.hpp>
#include <utility>

#include "event/timestamp.hpp"

namespace pillion {
namespace {

std::string columnOf(Event::Time time) {
  std::string text = toRfc3339(time);
  text[10] = ' ';
  text.pop_back();
  return text;
}

Event::Time timeOf(std::string column) {
  column[10] = 'T';
  return fromRfc3339(column + 'Z').value();
}

}  // namespace

Row rowOf(const Event& event) {
  Row row;
  row.eventId = event.id();
  row.type = event.type();
  row.source = event.source();
  row.key = event.key();
  row.time = columnOf(event.time());
  row.contentType = event.contentType();
  row.correlationId = event.correlationId();
  row.causationId = event.causationId();
  row.traceparent = event.traceparent();
  row.tracestate = event.tracestate();
  if (event.expiresAt()) row.expiresAt = columnOf(*event.expiresAt());
  if (!event.headers().empty()) {
    row.headers = nlohmann::json(event.headers())
                      .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  }
  row.payload = event.bytes();
  return row;
}

Event eventOf(const Row& row) {
  Event event = Event::ofBytes(row.type, row.payload, row.contentType);
  event.setId(row.eventId)
      .setSource(row.source)
      .setKey(row.key)
      .setTime(timeOf(row.time))
      .setCorrelationId(row.correlationId)
      .setCausationId(row.causationId)
      .setTrace(row.traceparent, row.tracestate);
  if (!row.expiresAt.empty()) event.setExpiresAt(timeOf(row.expiresAt));
  if (row.headers.empty()) return event;
  const auto headers = nlohmann::json::parse(row.headers);
  for (const auto& [name, value] : headers.items()) {
    event.setHeader(name, value.get<std::string>());
  }
  return event;
}

}  // namespace pillion
