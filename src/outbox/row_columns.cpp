#include "outbox/row_columns.hpp"

#include "postgres/statement.hpp"

namespace pillion::outbox {

Row rowFrom(const pqxx::row& fields, int at) {
  const auto text = [&](int offset) { return postgres::textOf(fields[at + offset]); };
  Row row;
  row.id = postgres::integerOf(fields[at]);
  row.lane = static_cast<int>(postgres::integerOf(fields[at + 1]));
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
  row.headers = text(12);
  row.payload = postgres::bytesOf(fields[at + 13]);
  return row;
}

}  // namespace pillion::outbox
