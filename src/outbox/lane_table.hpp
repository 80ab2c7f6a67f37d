#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <pillion/status.hpp>
#include <pqxx/pqxx>
#include <string>
#include <vector>

#include "outbox/cursor.hpp"
#include "outbox/event_log.hpp"

// Every statement on the tables `relay` and `lane`: who owns the cursor, and where it is.

namespace pillion::outbox {

/// Throws SchemaError when the row of a lane is missing: its events would be nobody's.
void requireAllLanes(pqxx::transaction_base& tx, const std::string& schema);

/// Moves all cursors to before every transaction that is in progress, this one included, and frees
/// the lanes: whoever held them is fenced.
void resetCursors(pqxx::transaction_base& tx, const std::string& schema);

/// Enters a new incarnation of a relay and returns its fencing token. `backend`: pid of the
/// database session whose end means that the relay has ended, or 0.
std::int64_t enterRelay(pqxx::transaction_base& tx, const std::string& schema,
                        const std::string& name, int backend, std::chrono::milliseconds lease);

/// Who has how much. Reads only, so that asking often costs next to nothing.
struct LaneShares {
  int relays = 0;  // alive, this one included
  int mine = 0;
  int free = 0;  // held by nobody, or by a relay that is gone

  /// So many are due to each relay.
  [[nodiscard]] int fair() const { return (kLanes + relays - 1) / relays; }
};
LaneShares readShares(pqxx::transaction_base& tx, const std::string& schema, std::int64_t token);

/// Fences every relay that is gone (lease run out, or database session ended) and takes at most
/// `limit` free lanes for a token that is not fenced, with what is known of the relays that had
/// them. Lanes that another relay is taking this moment are passed over. `former`: the caller's own
/// token before this one, whose end was no crash.
void takeLanes(pqxx::transaction_base& tx, const std::string& schema, std::int64_t token,
               std::int64_t former, int limit, Balance& balance);

/// The events over which enough relays have ended, of all lanes.
std::vector<std::int64_t> readBlamed(pqxx::transaction_base& tx, const std::string& schema);

/// Notes what a relay is about to send, for whoever takes its lanes over.
void writeInHand(pqxx::transaction_base& tx, const std::string& schema, std::int64_t token,
                 std::optional<std::int64_t> id);
/// No relay has ended over this event: a later one handled it to its end.
void forgetDeaths(pqxx::transaction_base& tx, const std::string& schema, std::int64_t id);

/// Renews the lease of a token that is not fenced, and locks it against being fenced until the
/// transaction ends; returns the server's state. A position is where the relay is from then on, and
/// every lane that has joined it. Nothing: the token is fenced or gone.
std::optional<std::string> renewLease(pqxx::transaction_base& tx, const std::string& schema,
                                      std::int64_t token, std::chrono::milliseconds lease,
                                      const std::optional<Position>& position);

/// Lanes of a token that is not fenced join it: they are where it is. False when it is fenced, or
/// holds not all of them: roll back.
bool joinLanes(pqxx::transaction_base& tx, const std::string& schema, std::int64_t token,
               Lanes lanes);

/// Gives lanes of a token that is not fenced a position of their own; with `Give`, they are then
/// free. False when it is fenced, or holds not all of them: roll back.
enum class Hold { Keep, Give };
bool writePosition(pqxx::transaction_base& tx, const std::string& schema, std::int64_t token,
                   const Position& position, Hold hold);

/// The sessions and prepared transactions with a lock at the relays' and lanes' tables, a second
/// old at least, each with what can be told of it.
std::string readLockHolders(pqxx::transaction_base& tx, const std::string& schema);

/// A text that changes when the server restarted, failed over or was promoted.
std::string serverState(pqxx::transaction_base& tx, const std::string& schema);

/// The incarnation ends: its lanes are free at their last written positions.
void leave(pqxx::transaction_base& tx, const std::string& schema, std::int64_t token);

std::vector<LaneStatus> readLanes(pqxx::transaction_base& tx, const std::string& schema);

}  // namespace pillion::outbox
