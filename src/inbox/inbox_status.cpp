#include <pillion/status.hpp>

#include <algorithm>
#include <map>

#include "inbox/inbox_dead_table.hpp"
#include "inbox/inbox_parked_table.hpp"
#include "migrate/schema_check.hpp"
#include "postgres/connection.hpp"

namespace pillion {

std::vector<ConsumerStatus> readInboxStatus(const DatabaseOptions& options) {
  const std::string schema = postgres::schemaOf(options);
  const auto connection = postgres::connect(options, "status");
  std::map<std::string, ConsumerStatus> byName;
  postgres::guarded("reading the status", [&] {
    pqxx::read_transaction tx{*connection};
    migrate::requireCurrentSchema(tx, schema);
    for (ConsumerStatus& one : inbox::countParked(tx, schema)) {
      byName[one.consumer] = std::move(one);
    }
    for (const auto& [consumer, dead] : inbox::countDead(tx, schema)) {
      ConsumerStatus& one = byName[consumer];
      one.consumer = consumer;
      one.givenUp = dead.letters;
      one.oldest = std::max(one.oldest, dead.oldest);
    }
  });
  std::vector<ConsumerStatus> consumers;
  for (auto& [consumer, one] : byName) consumers.push_back(std::move(one));
  return consumers;
}

}  // namespace pillion
