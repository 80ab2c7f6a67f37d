#include <pillion/status.hpp>

#include "migrate/schema_check.hpp"
#include "outbox/activity_table.hpp"
#include "outbox/lane_table.hpp"
#include "outbox/outbox_table.hpp"
#include "outbox/parked_table.hpp"
#include "outbox/scheduled_table.hpp"
#include "postgres/connection.hpp"

namespace pillion {
namespace {

std::optional<std::chrono::milliseconds> asMilliseconds(std::optional<double> seconds) {
  if (!seconds) return std::nullopt;
  return std::chrono::milliseconds(static_cast<std::int64_t>(*seconds * 1000.0));
}

}  // namespace

OutboxStatus readOutboxStatus(const DatabaseOptions& options) {
  const std::string schema = postgres::schemaOf(options);
  const auto connection = postgres::connect(options, "status");
  OutboxStatus status;
  postgres::guarded("reading the status", [&] {
    pqxx::read_transaction tx{*connection};
    // The ring has no statistics: without these the planner takes the scans for huge, and compiling
    // the query costs more than running it.
    tx.exec("set local enable_seqscan = off; set local jit = off");
    migrate::requireCurrentSchema(tx, schema);
    outbox::requireAllLanes(tx, schema);
    const auto pending = outbox::countPending(tx, schema);
    const auto parked = outbox::countParked(tx, schema);
    status.pending = pending.events;
    status.pendingIsMinimum = pending.isMinimum;
    status.oldest = asMilliseconds(pending.oldestSeconds);
    status.parked = parked.events;
    status.parkedByReason = parked.byReason;
    status.scheduled = outbox::countScheduled(tx, schema);
    const auto ring = outbox::measureRing(tx, schema);
    status.childrenInUse = ring.childrenInUse;
    status.bytes = ring.bytes;
    status.spaceHolders = outbox::readSpaceHolders(tx, schema, std::chrono::seconds(10));
    status.oldestParked = asMilliseconds(parked.oldestSeconds);
    status.lanes = outbox::readLanes(tx, schema);
  });
  return status;
}

}  // namespace pillion
