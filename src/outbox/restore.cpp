#include <pillion/restore.hpp>

#include "migrate/meta_table.hpp"
#include "migrate/schema_check.hpp"
#include "outbox/lane_table.hpp"
#include "outbox/outbox_table.hpp"
#include "outbox/parked_table.hpp"
#include "outbox/sequence_table.hpp"
#include "postgres/connection.hpp"

namespace pillion {

void adoptCluster(const DatabaseOptions& options, bool newIdentity) {
  const std::string schema = postgres::schemaOf(options);
  const auto connection = postgres::connect(options, "adopt");
  postgres::guarded("adopting the cluster", [&] {
    pqxx::work tx{*connection};
    migrate::requireCurrentSchema(tx, schema);
    migrate::requireCursorInReach(tx, schema);
    outbox::requireSequences(tx, schema);
    migrate::storeCluster(tx, schema);
    if (newIdentity) migrate::renewIdentity(tx, schema);
    tx.commit();
  });
}

Rebased rebaseCursor(const DatabaseOptions& options, std::chrono::hours republish, bool dryRun) {
  const std::string schema = postgres::schemaOf(options);
  const auto connection = postgres::connect(options, "rebase");
  Rebased rebased;
  postgres::guarded("rebasing the cursor", [&] {
    pqxx::work tx{*connection};
    migrate::requireCurrentSchema(tx, schema);
    if (dryRun) {
      const auto counted = outbox::countByAge(tx, schema, republish);
      rebased = {counted.unpublished, counted.published};
      return;
    }
    outbox::lockOutWriters(tx, schema);
    outbox::advanceSequences(tx, schema);
    const auto stamped = outbox::stampAnew(tx, schema, republish);
    rebased = {stamped.unpublished, stamped.published};
    outbox::stampParkedAnew(tx, schema);
    outbox::resetCursors(tx, schema);
    migrate::storeCluster(tx, schema);
    tx.commit();
  });
  return rebased;
}

}  // namespace pillion
