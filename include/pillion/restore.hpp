/// After a restore, an upgrade or a promotion: telling the outbox that it is in another cluster
/// now.
#pragma once

#include <chrono>
#include <cstdint>
#include <pillion/options.hpp>
#include <string>

namespace pillion {

/// The cursor is made of transaction ids, which mean something in one PostgreSQL cluster only; so a
/// relay refuses a database whose cluster is not the one the cursor was made in. These two
/// functions, and the commands `pillion adopt` and `pillion rebase`, are how an operator goes on.

/// For `pg_upgrade`, which keeps transaction ids and changes the cluster's identifier: the cursor
/// is valid as it is. Throws SchemaError when the cursor is ahead of this cluster's transaction
/// ids, which shows that they were *not* kept, and when a sequence is behind its rows. Needs the
/// owner of the schema.
///
/// `newIdentity` is for a copy of the whole cluster (a base backup, a snapshot of its disks) that
/// is to live beside the original: nothing in it tells the two apart, so on one broker their relays
/// would keep each other from publishing. Call it in the copy; its events that the original has yet
/// to publish are then published by both.
void adoptCluster(const DatabaseOptions& options = {}, bool newIdentity = false);

/// For a consumer whose database was moved or made anew: its queue is this database's from now on,
/// and no other's. Every queue is marked with the inbox that consumes it, so that two services that
/// took the same name on two databases are refused instead of getting a part each. What the old
/// inbox remembered is known here only if its tables came along: without them, events that it has
/// applied and not acked are applied again. Stop the consumer of the old database first; one that
/// runs lets go of the queue within `ConsumerOptions::bindEvery`. Throws as EventConsumer::start.
void adoptQueue(const DatabaseOptions& database, const BrokerOptions& broker,
                const std::string& queue);

struct Rebased {
  std::uint64_t republished = 0;  ///< events that will be published again, with their old ids
  std::uint64_t kept = 0;         ///< older events that count as published
};

/// For a dump restored into another cluster: which of the restored events were published can no
/// longer be told, so all that were written within `republish` are published again, in their order,
/// and consumers drop what they have applied. Choose it below the consumers' dedupe window (14 days
/// by default) and above the age of the dump.
///
/// Sequences that are behind their rows (logical replication copies rows and not sequences) are set
/// forward, here and in the inbox.
///
/// Writers wait while it runs (EXCLUSIVE lock on the outbox); every kept event is rewritten once.
/// With `dryRun` nothing is changed. Safe to repeat. Stop the relays first; needs the owner of the
/// schema.
Rebased rebaseCursor(const DatabaseOptions& options = {},
                     std::chrono::hours republish = std::chrono::hours(13 * 24),
                     bool dryRun = false);

}  // namespace pillion
