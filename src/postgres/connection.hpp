#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <pillion/error.hpp>
#include <pillion/options.hpp>
#include <pqxx/pqxx>
#include <string>

#include "base/watchdog.hpp"
#include "postgres/session.hpp"

namespace pillion::postgres {

/// The schema that the options and the environment name, unquoted.
std::string schemaOf(const DatabaseOptions& options);

/// A connection that is given up when PostgreSQL leaves a call unanswered: see the guarded() that
/// takes one. After a stop nothing on it is waited for longer than its StopBound.
class Connection {
 public:
  Connection(const std::string& text, std::chrono::milliseconds answerTimeout,
             base::StopBound bound)
      : session_(text),
        answerTimeout_(answerTimeout),
        watchdog_(session_->sock(), std::move(bound)) {}

  /// As the library knows it, which is what a transaction is made on. Not a base: the library's has
  /// no virtual destructor, and would be deleted without its watchdog.
  operator Session&() { return session_; }
  Session* operator->() { return session_.operator->(); }
  [[nodiscard]] OpenSession& session() { return session_; }

  [[nodiscard]] std::chrono::milliseconds answerTimeout() const { return answerTimeout_; }
  [[nodiscard]] base::Watchdog& watchdog() { return watchdog_; }

 private:
  OpenSession session_;
  std::chrono::milliseconds answerTimeout_;
  base::Watchdog watchdog_;
};

/// Opens a connection that never reconnects by itself: a silent reconnect would lose the session's
/// lease, settings and prepared statements. `role` ends up in application_name, for
/// pg_stat_activity. Throws ConfigError for what waiting cannot heal (bad URL, unknown host, wrong
/// password, no such database), else DatabaseError.
std::unique_ptr<Connection> connect(const DatabaseOptions& options, const std::string& role,
                                    base::StopBound bound = {});

/// After a stop, for a connection whose work then need not be finished.
inline constexpr std::chrono::seconds kNothingToFinish{1};

/// The settings of one transaction of Pillion's own: a pooler in transaction mode keeps no session,
/// so there they are said each time. `local`: a standby that is gone must not hold up the relay; no
/// row of its own is worth more after a failover than before it. `row_security`: what a policy
/// would hide is an error, and no row that is not there.
inline constexpr const char* kOwnTransaction =
    "set transaction isolation level read committed; set local synchronous_commit = local;"
    " set local lock_timeout = '10s'; set local statement_timeout = 0;"
    " set local idle_in_transaction_session_timeout = '60s'; set local row_security = off;"
    " set local bytea_output = hex";

/// A lock was waited for as long as lock_timeout allows.
class LockTimeout : public DatabaseError {
 public:
  explicit LockTimeout(const std::string& message) : DatabaseError(Kind::Unavailable, message) {}
};

/// Runs work on a connection of ours and turns pqxx exceptions into Pillion's. Pillion's own pass.
/// `doing` completes "PostgreSQL, …:" in the message.
void guarded(const std::string& doing, const std::function<void()>& work);

/// The same for work that is all on this connection and whose every statement has a limit of its
/// own, or is short: the connection is given up when the whole takes longer than its answerTimeout.
void guarded(Connection& connection, const std::string& doing, const std::function<void()>& work);

/// Is the error that the session has no such prepared statement, or has one of that name already?
/// Then somebody reset the session (DISCARD ALL, DEALLOCATE ALL), or it is not the one it was.
bool isLostStatement(const pqxx::sql_error& error);

/// The first line of a PostgreSQL error: its message without the DETAIL, which can hold row values.
std::string firstLine(const std::string& text);

}  // namespace pillion::postgres
