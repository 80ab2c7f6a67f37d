#include "outbox/scheduled_table.hpp"

#include "postgres/identifier.hpp"
#include "postgres/statement.hpp"

namespace pillion::outbox {

using postgres::execute;
using postgres::inSchema;
using postgres::integerOf;

void schedule(pqxx::transaction_base& tx, const std::string& schema, const Event& event,
              const Origin& origin) {
  std::size_t next = 2;
  postgres::Parameters parameters;
  parameters.addTime(event.deliverAt().value());
  addEvent(parameters, event, origin, Columns::All);
  execute(
      tx,
      postgres::inSchemaAsAscii(
          "insert into {schema}.scheduled (deliver_at, " + eventColumns(Columns::All) +
              ") values ($1::pg_catalog.timestamptz, " + eventParameters(next, Columns::All) + ")",
          schema),
      parameters);
}

MovedDue moveDue(pqxx::transaction_base& tx, const std::string& schema, std::size_t rowLimit,
                 std::size_t byteLimit) {
  const auto result = execute(
      tx,
      inSchema("select moved, next_ms from {schema}.move_due($1::text::bigint, $2::text::bigint)",
               schema),
      {std::to_string(rowLimit), std::to_string(byteLimit)});
  MovedDue moved;
  moved.events = static_cast<std::size_t>(integerOf(result[0][0]));
  if (!result[0][1].is_null()) moved.nextIn = std::chrono::milliseconds(integerOf(result[0][1]));
  return moved;
}

std::uint64_t countScheduled(pqxx::transaction_base& tx, const std::string& schema) {
  const auto result = tx.exec(inSchema("select count(*) from {schema}.scheduled", schema));
  return static_cast<std::uint64_t>(integerOf(result[0][0]));
}

}  // namespace pillion::outbox
