#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <pillion/event.hpp>
#include <pillion/options.hpp>
#include <pqxx/pqxx>
#include <string>
#include <vector>

#include "event/row.hpp"
#include "outbox/cursor.hpp"
#include "outbox/row_columns.hpp"
#include "postgres/session.hpp"
#include "postgres/statement.hpp"

// Every statement on the table `outbox`.

namespace pillion::outbox {

/// Rows per insert statement, the largest first: many events cost few round trips, and few
/// statements are prepared.
inline constexpr std::size_t kInsertSizes[] = {64, 16, 4, 1};

std::string insertStatement(const std::string& schema, std::size_t rows, Columns columns);

/// Reads the log forward, for the lanes of a position.
class OutboxReader {
 public:
  OutboxReader(const std::string& schema, std::size_t byteLimit);

  struct Live {
    std::vector<Row> rows;    // in id order; meaningless when cut
    Snapshot now;             // the snapshot of this very statement
    std::int64_t lastId = 0;  // the sequence, read by the same statement
    std::string server;       // changes when the server restarted, failed over or was promoted
    bool cut = false;         // there are more than the limits allow
  };
  /// Everything visible now and not visible in `from.done`.
  Live fetchLive(pqxx::transaction_base& tx, const Position& from, std::size_t limit) const;

  struct Paged {
    std::vector<Row> rows;  // in id order
    std::string server;
    bool last = false;
  };
  /// The same up to the frozen `from.target`, in id order above `from.lastId`.
  Paged fetchPage(pqxx::transaction_base& tx, const Position& from, std::size_t limit) const;

  /// The lowest id written by transactions that were in progress in `done`; nothing when they wrote
  /// none, or have not committed.
  std::optional<std::int64_t> lowestLateId(pqxx::transaction_base& tx, const Snapshot& done) const;

 private:
  std::string liveStatement_;
  std::string pageStatement_;
  std::string lateStatement_;
  std::size_t byteLimit_;
};

struct PendingCount {
  std::uint64_t events = 0;
  bool isMinimum = false;
  std::optional<double> oldestSeconds;
};
PendingCount countPending(pqxx::transaction_base& tx, const std::string& schema);

/// Until the transaction ends, nobody else writes events.
void lockOutWriters(pqxx::transaction_base& tx, const std::string& schema);

struct Stamped {
  std::uint64_t unpublished = 0;
  std::uint64_t published = 0;
};
/// Gives every kept event a transaction id of this cluster: the events younger than `republish`
/// that of `tx` itself, the others one below every cursor. Needs lockOutWriters.
Stamped stampAnew(pqxx::transaction_base& tx, const std::string& schema,
                  std::chrono::hours republish);

/// What stampAnew would do.
Stamped countByAge(pqxx::transaction_base& tx, const std::string& schema,
                   std::chrono::hours republish);

inline constexpr int kRingChildren = 8;

/// Empties the children of the ring that hold nothing but published events older than `keep`.
/// Returns how many children had which outcome: what truncate_published says, or "sqlstate …".
std::map<std::string, int> truncatePublished(postgres::Session& connection,
                                             const std::string& schema, std::chrono::seconds keep);

/// Begins the next child of the ring when the current one has events older than `age`.
bool rotateRing(pqxx::transaction_base& tx, const std::string& schema, std::chrono::seconds age);

/// The wake-up by NOTIFY: is its trigger there, what is its channel, does a relay sleep?
bool notifies(pqxx::transaction_base& tx, const std::string& schema);
std::string notifyChannel(postgres::Session& connection, const std::string& schema);
void setIdle(pqxx::transaction_base& tx, const std::string& schema, bool idle);

struct RingSize {
  int childrenInUse = 0;
  std::uint64_t bytes = 0;
};
RingSize measureRing(pqxx::transaction_base& tx, const std::string& schema);

/// Which published events to publish again; empty texts restrict nothing.
struct ReplayRange {
  std::int64_t afterId = 0;
  std::int64_t upToId = 0;
  std::string from;         // RFC 3339, written at or after
  std::string to;           // written before
  std::string typePattern;  // a regular expression, matched against '.' and the type
  std::string key;
  std::size_t limit = 0;
};
enum class ReplayMode { Count, SameIds, AsNew };
struct Replayed {
  std::uint64_t events = 0;
  std::int64_t lastId = 0;
};
/// Copies the first of them to the end of the log.
Replayed replayBatch(pqxx::transaction_base& tx, const std::string& schema,
                     const ReplayRange& range, ReplayMode mode);
/// The newest id that was given out.
std::int64_t lastEventId(pqxx::transaction_base& tx, const std::string& schema);

}  // namespace pillion::outbox
