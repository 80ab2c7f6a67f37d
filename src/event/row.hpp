#pragma once

#include <cstdint>
#include <pillion/event.hpp>
#include <string>

namespace pillion {

/// An event as stored: what the relay carries, unparsed. Empty text means that the column is null.
struct Row {
  std::int64_t id = 0;
  int lane = 0;
  std::string eventId;
  std::string type;
  std::string source;
  std::string key;
  std::string time;  // UTC, "2026-01-31 23:59:59.123456"
  std::string contentType;
  std::string correlationId;
  std::string causationId;
  std::string traceparent;
  std::string tracestate;
  std::string expiresAt;  // as `time`
  std::string headers;    // a JSON object of texts
  std::string payload;
};

/// As the publisher stores it; with no place in a log.
Row rowOf(const Event& event);
/// One that the publisher has stored.
Event eventOf(const Row& row);

}  // namespace pillion
