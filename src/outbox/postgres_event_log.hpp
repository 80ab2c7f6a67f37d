#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <pillion/options.hpp>
#include <pqxx/pqxx>
#include <string>

#include "outbox/event_log.hpp"
#include "outbox/outbox_table.hpp"
#include "outbox/written_cursor.hpp"
#include "postgres/connection.hpp"

namespace pillion::outbox {

struct EventLogOptions {
  DatabaseOptions database = {};
  std::string relayName = "";
  std::chrono::milliseconds lease{};
  std::size_t pageBytes = 0;
  /// Is the end of the database session the end of the relay? Not when it could go on publishing.
  bool endsWithSession = true;
  /// The token that this process had before, 0 for none: its end was no crash.
  std::int64_t formerToken = 0;
  base::StopBound bound = {};  // of the connection
};

/// The event log in PostgreSQL: one connection, opened by the constructor, lost with the object.
class PostgresEventLog : public EventLog {
 public:
  /// Throws ConfigError, SchemaError or DatabaseError.
  explicit PostgresEventLog(const EventLogOptions& options);

  Page fetch(const Cursor& from, std::size_t limit) override;
  void checkpoint(const Checkpoint& checkpoint) override;
  ParkedSummary parkedSummary(Lanes lanes) override;
  void noteInHand(std::optional<std::int64_t> id) override;
  void acquit(std::int64_t id) override;
  void setIdle(bool idle) override;

  /// Takes free lanes, and those of relays that are gone, up to this relay's fair share; says how
  /// many it has above that.
  Balance balance();
  /// Gives all lanes back at the cursor of the last checkpoint.
  void release();
  /// Who else is at the relays' and lanes' rows, for a log line about a lock; "" when that cannot
  /// be told.
  std::string lockHolders();
  /// Names this outbox towards the broker: the same for every relay of it, in whatever process.
  [[nodiscard]] const std::string& identity() const { return identity_; }
  /// The server that answers, until it restarts or another one does: then each call throws.
  [[nodiscard]] const std::string& server() const { return server_; }
  /// How many relays are alive, this one included. Takes nothing.
  int relaysAlive();
  /// 0 before the first balance, and after release.
  [[nodiscard]] std::int64_t token() const { return token_; }

 private:
  void asked(const std::string& doing, const std::function<void()>& work);
  Page nextPage(const Cursor& from, std::size_t limit);
  Page meetingPage(const Cursor& from, std::size_t limit);
  Page livePage(pqxx::transaction_base& tx, const Position& from, std::size_t limit);
  Page backlogPage(pqxx::transaction_base& tx, const Position& from, std::size_t limit);
  void requireSameServer(const std::string& state, std::int64_t lastId);
  void writeCursor(pqxx::transaction_base& tx, const Checkpoint& checkpoint);

  EventLogOptions options_;
  std::string schema_;
  std::unique_ptr<postgres::Connection> connection_;
  OutboxReader reader_;
  std::string identity_;
  int backend_ = 0;         // pid of our database session, 0 behind a pooler
  std::int64_t token_ = 0;  // 0 before the first balance
  WrittenCursor written_;
  std::size_t turnOf_ = 0;  // which position is read next
  std::string server_;      // start time and timeline; a change means that ids may have been reused
  std::int64_t lastIdSeen_ = 0;   // the sequence, as the latest fetch saw it
  std::int64_t provenFloor_ = 0;  // lastIdSeen_ as it was before our latest committed write
};

}  // namespace pillion::outbox
