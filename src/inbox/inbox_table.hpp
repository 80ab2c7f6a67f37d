#pragma once

#include <chrono>
#include <cstdint>
#include <pqxx/pqxx>
#include <span>
#include <string>
#include <vector>

#include "amqp/message.hpp"
#include "postgres/session.hpp"

// Every statement on the tables `inbox`, `inbox_horizon` and `inbox_window`.

namespace pillion::inbox {

using WallTime = std::chrono::system_clock::time_point;

inline constexpr int kRing = 32;  // children of sql/0003_inbox.sql
/// What one child covers: 2^26 ms.
inline constexpr std::chrono::milliseconds kChildSpan{std::int64_t{1} << 26};
/// Children that ids made by a clock that runs ahead may already be using.
inline constexpr int kChildrenAhead = 2;

/// What a handler may have set, as it was when the session began. To be said before anything that
/// needs a snapshot. And that the server notices within half a minute when the consumer's machine
/// is gone, which says nothing when it loses its power: else the ids of a batch in hand would stay
/// recorded for two hours (PostgreSQL manual, 20.3.2).
inline constexpr const char* kFreshSettings =
    "reset session authorization; reset role; reset all; set client_encoding = 'UTF8';"
    " set tcp_keepalives_idle = 10; set tcp_keepalives_interval = 5; set tcp_keepalives_count = 3;"
    " set tcp_user_timeout = 25000";

/// The first statements of a transaction in which handlers run, which is read committed: the
/// session is as it was when it began, and whatever text would end the transaction fails until
/// `endGuard`.
std::string guardOf(const std::string& schema);
/// Fails in any other transaction than that, and in one that has failed.
void endGuard(pqxx::transaction_base& tx);
/// Between two handlers: the first one's savepoint ends, and the session is as it was when it
/// began.
void freshenSession(pqxx::transaction_base& tx, const std::string& savepoint);
/// Is there a function of the service's own by whose text a setting may be changed? A trigger may
/// call it, and then no command tells of it.
bool anyFunctionSets(pqxx::transaction_base& tx, const std::string& schema);

void prepareClaim(postgres::Session& connection, const std::string& schema);

/// Records ids with their sources, in one statement. Waits for other transactions that are
/// recording the same ones, for a second at most (then SQLSTATE 55P03). Needs prepareClaim on the
/// connection. See claim_events in sql/0003_inbox.sql.
struct Claimed {
  std::vector<bool> isNew;  // one per event; the second of two equal ones is not
  // Of no meaning when none is new:
  bool anyParked = false;  // the consumer has parked events
};
Claimed claimIds(pqxx::transaction_base& tx, const std::string& consumer,
                 std::span<const amqp::Identity* const> events, std::chrono::milliseconds patience);

/// As if it had never been taken.
void forgetId(pqxx::transaction_base& tx, const std::string& schema, const std::string& consumer,
              const std::string& eventId, const std::string& source);

/// Events made before this have been forgotten.
WallTime readHorizon(pqxx::transaction_base& tx, const std::string& schema);
/// The same, and it does not move until the transaction ends, whatever its isolation level.
WallTime lockHorizon(pqxx::transaction_base& tx, const std::string& schema);

/// PostgreSQL's clock: instances share the ring, and theirs need not agree.
WallTime readClock(pqxx::transaction_base& tx);

/// Says that this consumer remembers for so long, and returns the longest of all that have said so
/// lately. Of the instances of one consumer the longest holds, for a while after it was last said.
std::chrono::hours agreeOnWindow(pqxx::transaction_base& tx, const std::string& schema,
                                 const std::string& consumer, std::chrono::hours window);

/// The children whose whole span ended before `horizon`, and when each span ended.
struct OldChild {
  int child;
  WallTime end;
};
std::vector<OldChild> childrenBefore(WallTime horizon, WallTime now);

/// Empties a child and moves the horizon to `end`; false when somebody is using it (try later) or
/// it is empty already.
bool truncateChild(pqxx::transaction_base& tx, const std::string& schema, const OldChild& old);

/// Deletes ids that no child forgets by time (those of other versions than 7), when they were
/// recorded before: the consumer's own, and anybody's when they are older than every window. At
/// most a small batch; returns whether there may be more.
bool deleteOther(pqxx::transaction_base& tx, const std::string& schema, const std::string& consumer,
                 WallTime before, WallTime orphansBefore);

}  // namespace pillion::inbox
