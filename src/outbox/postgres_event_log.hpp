#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <pillion/options.hpp>
#include <pqxx/pqxx>
#include <set>
#include <string>
#include <vector>

#include "outbox/event_log.hpp"
#include "outbox/outbox_table.hpp"
#include "outbox/written_cursor.hpp"

namespace pillion::outbox {

struct EventLogOptions {
  DatabaseOptions database = {};
  std::string relayName = "";
  std::chrono::milliseconds lease{};
  std::size_t pageEvents = 0;
  std::size_t pageBytes = 0;
  std::chrono::seconds retention{};
  /// Is the end of the database session the end of the relay? Not when it could go on publishing.
  bool endsWithSession = true;
  /// The token that this process had before, 0 for none: its end was no crash.
  std::int64_t formerToken = 0;
};

/// The event log in PostgreSQL: one connection, opened by the constructor, lost with the object.
class PostgresEventLog : public EventLog {
 public:
  /// Throws ConfigError, SchemaError or DatabaseError.
  explicit PostgresEventLog(const EventLogOptions& options);

  Balance balance() override;
  Page fetch(const Cursor& from) override;
  bool checkpoint(const Checkpoint& checkpoint) override;
  void release() override;
  void suspect(std::optional<std::int64_t> id) override;
  ParkedSummary parkedSummary(Lanes lanes, const HoldPolicy& hold) override;
  std::vector<Row> fetchParked(const std::string& type, Lanes lanes, std::size_t limit) override;
  HeldRows fetchHeld(const std::vector<std::string>& keys, const HoldPolicy& hold) override;
  std::vector<Row> fetchRefused(Lanes lanes, std::int64_t after) override;
  std::chrono::milliseconds moveDue() override;
  void setIdle(bool idle) override;
  void reclaimSpace() override;
  [[nodiscard]] std::string identity() const override { return identity_; }

  /// How many relays are alive, this one included. Takes nothing.
  int relaysAlive();
  /// 0 before the first balance, and after release.
  [[nodiscard]] std::int64_t token() const { return token_; }

 private:
  Page nextPage(const Cursor& from);
  Page meetingPage(const Cursor& from);
  Page livePage(pqxx::transaction_base& tx, const Position& from);
  Page backlogPage(pqxx::transaction_base& tx, const Position& from);
  void requireSameServer(const std::string& state, std::int64_t lastId);
  template <typename Result, typename Read>
  Result readParkedEvents(const Read& read);
  bool writeCursor(pqxx::transaction_base& tx, const Checkpoint& checkpoint);

  EventLogOptions options_;
  std::string schema_;
  std::unique_ptr<pqxx::connection> connection_;
  OutboxReader reader_;
  std::string identity_;
  int backend_ = 0;         // pid of our database session, 0 behind a pooler
  std::int64_t token_ = 0;  // 0 before the first balance
  WrittenCursor written_;
  std::size_t turnOf_ = 0;      // which position is read next
  std::set<std::string> said_;  // reasons for keeping space that were logged
  std::string server_;  // start time and timeline; a change means that ids may have been reused
  std::int64_t lastIdSeen_ = 0;   // the sequence, as the latest fetch saw it
  std::int64_t provenFloor_ = 0;  // lastIdSeen_ as it was before our latest committed write
};

}  // namespace pillion::outbox
