#include <pillion/error.hpp>
#include <pillion/group.hpp>
#include <pillion/status.hpp>
#include <utility>

#include <algorithm>
#include <map>

#include "inbox/group_table.hpp"
#include "inbox/inbox_dead_table.hpp"
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

std::map<std::string, ConsumerStatus> consumersOf(pqxx::transaction_base& tx,
                                                  const std::string& schema) {
  std::map<std::string, ConsumerStatus> byName;
  for (ConsumerStatus& one : inbox::countParked(tx, schema)) {
    byName[one.consumer] = std::move(one);
  }
  for (const auto& [consumer, dead] : inbox::countDead(tx, schema)) {
    ConsumerStatus& one = byName[consumer];
    one.consumer = consumer;
    one.givenUp = dead.letters;
    one.oldest = std::max(one.oldest, dead.oldest);
  }
  return byName;
}

}  // namespace

std::vector<ConsumerStatus> readInboxStatus(const DatabaseOptions& options) {
  std::map<std::string, ConsumerStatus> byName = readOnce(options, consumersOf);
  std::vector<ConsumerStatus> consumers;
  for (auto& [consumer, one] : byName) consumers.push_back(std::move(one));
  return consumers;
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
