#include <pillion/status.hpp>

#include "inbox/inbox_parked_table.hpp"
#include "migrate/schema_check.hpp"
#include "postgres/connection.hpp"

namespace pillion {

std::vector<ConsumerStatus> readInboxStatus(const DatabaseOptions& options) {
  const std::string schema = postgres::schemaOf(options);
  const auto connection = postgres::connect(options, "status");
  std::vector<ConsumerStatus> consumers;
  postgres::guarded("reading the status", [&] {
    pqxx::read_transaction tx{*connection};
    migrate::requireCurrentSchema(tx, schema);
    consumers = inbox::countParked(tx, schema);
  });
  return consumers;
}

}  // namespace pillion
