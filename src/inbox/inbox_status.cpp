#include <pillion/error.hpp>
#include <pillion/group.hpp>
#include <pillion/status.hpp>
#include <utility>

#include "inbox/group_table.hpp"
#include "inbox/inbox_parked_table.hpp"
#include "migrate/schema_check.hpp"
#include "postgres/connection.hpp"

namespace pillion {
namespace {

template <typename Read>
auto readOnce(const DatabaseOptions& options, Read read) {
  const std::string schema = postgres::schemaOf(options);
  const auto connection = postgres::connect(options, "status");
  decltype(read(std::declval<pqxx::transaction_base&>(), schema)) status;
  postgres::guarded("reading the status", [&] {
    pqxx::read_transaction tx{*connection};
    migrate::requireCurrentSchema(tx, schema);
    status = read(tx, schema);
  });
  return status;
}

}  // namespace

std::vector<ConsumerStatus> readInboxStatus(const DatabaseOptions& options) {
  return readOnce(options, inbox::countParked);
}

std::vector<GroupStatus> readGroupStatus(const DatabaseOptions& options) {
  return readOnce(options, inbox::readGroups);
}

void changePartitions(const DatabaseOptions& options, const std::string& consumer, int partitions) {
  if (partitions < 1 || partitions > 64) {
    throw ConfigError("partitions of consumer '" + consumer + "': " + std::to_string(partitions) +
                      "; 1 to 64 are possible");
  }
  const std::string schema = postgres::schemaOf(options);
  const auto connection = postgres::connect(options, "partitions of " + consumer);
  postgres::guarded("changing the number of partitions", [&] {
    pqxx::work tx{*connection};
    tx.exec(postgres::kOwnTransaction);
    migrate::requireCurrentSchema(tx, schema);
    inbox::changePartitions(tx, schema, consumer, partitions);
    tx.commit();
  });
}

}  // namespace pillion
