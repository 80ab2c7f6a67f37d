#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <pillion/options.hpp>
#include <pqxx/pqxx>
#include <string>

#include "base/clock.hpp"
#include "inbox/inbox.hpp"
#include "inbox/inbox_table.hpp"
#include "inbox/postgres_inbox_transaction.hpp"
#include "postgres/connection.hpp"

namespace pillion::inbox {

/// The inbox in the consuming service's own database: one connection, opened by the constructor.
class PostgresInbox : public Inbox {
 public:
  /// Throws ConfigError, SchemaError or DatabaseError.
  PostgresInbox(const DatabaseOptions& options, std::string consumer, std::chrono::hours window,
                const base::Clock& clock = base::systemClock());

  /// See migrate/meta_table.hpp.
  [[nodiscard]] const std::string& identity() const { return identity_; }
  [[nodiscard]] bool remembers(const std::string& eventId) const override;
  std::unique_ptr<InboxTransaction> begin() override;
  bool forgetOld() override;
  std::optional<ParkedEvent> takeDue(const std::vector<std::string>& left) override;
  void giveBack(const ParkedEvent& event) override;
  bool leaveToOthers(const ParkedEvent& event) override;
  std::optional<std::chrono::milliseconds> nextDueIn() override;

  /// Asks the server to give up what it is doing for this connection. The one call that another
  /// thread may make.
  void cancelQuery() noexcept;

 private:
  template <typename Work>
  void own(const char* doing, Work work);
  void truncate(const OldChild& old);
  void setClock(WallTime server);
  /// By PostgreSQL's clock, as it was read last.
  [[nodiscard]] WallTime now() const;

  std::string schema_;
  std::string consumer_;
  std::string identity_;
  std::chrono::hours window_;
  const base::Clock& clock_;
  std::unique_ptr<postgres::Connection> connection_;
  bool functionsSet_ = true;
  WallTime horizon_;
  std::chrono::hours longestWindow_{0};  // of the schema's consumers
  WallTime serverTime_;
  base::Clock::Boot readAt_{0};
};

}  // namespace pillion::inbox
