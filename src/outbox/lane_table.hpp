#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <pillion/status.hpp>
#include <pqxx/pqxx>
#include <string>
#include <vector>

#include "outbox/cursor.hpp"

// Every statement on the tables `relay`, `lane` and `meta`: who owns the cursor, and where it is.

namespace pillion::outbox {

inline constexpr int kLanes = 64;

/// Throws SchemaError when this is not the cluster, or not the state of it, that the cursor belongs
/// to: a cursor of transaction ids would silently skip events there.
void requireOwnCluster(pqxx::transaction_base& tx, const std::string& schema);

/// Throws SchemaError when the cursor names transactions that this cluster has not seen yet.
void requireCursorInReach(pqxx::transaction_base& tx, const std::string& schema);

/// Notes that the cursor belongs to this cluster.
void storeCluster(pqxx::transaction_base& tx, const std::string& schema);

/// Moves all cursors to before every transaction that is in progress, this one included, and frees
/// the lanes: whoever held them is fenced.
void resetCursors(pqxx::transaction_base& tx, const std::string& schema);

/// Could `takeAllLanes` succeed now? Reads only, so that a relay standing by costs next to nothing.
bool lanesAreFree(pqxx::transaction_base& tx, const std::string& schema);

/// Fences every relay that is gone (lease run out, or database session ended) and takes all lanes
/// under a new token. Nothing when somebody alive holds one.
std::optional<std::int64_t> takeAllLanes(pqxx::transaction_base& tx, const std::string& schema,
                                         const std::string& name, std::chrono::milliseconds lease);

/// The cursor of the lanes of a token. Throws SchemaError when they differ.
Cursor readCursor(pqxx::transaction_base& tx, const std::string& schema, std::int64_t token);

/// Renews the lease and writes the cursor of all lanes of a token that is not fenced; false when it
/// is, or is gone.
bool writeCursor(pqxx::transaction_base& tx, const std::string& schema, std::int64_t token,
                 std::chrono::milliseconds lease, const Cursor& cursor);
bool renewLease(pqxx::transaction_base& tx, const std::string& schema, std::int64_t token,
                std::chrono::milliseconds lease);

void giveLanesBack(pqxx::transaction_base& tx, const std::string& schema, std::int64_t token);

std::vector<LaneStatus> readLanes(pqxx::transaction_base& tx, const std::string& schema);

/// The same text for every relay of this outbox: cluster, database, schema.
std::string outboxIdentity(pqxx::transaction_base& tx, const std::string& schema);

}  // namespace pillion::outbox
