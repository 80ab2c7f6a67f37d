#include "postgres/connection.hpp"

#include <libpq-fe.h>

#include <memory>
#include <pillion/error.hpp>
#include <utility>

#include "base/environment.hpp"
#include "base/printable.hpp"
#include "postgres/refusal.hpp"

namespace pillion::postgres {
namespace {

using ConnectionInfo = std::unique_ptr<PQconninfoOption, decltype(&PQconninfoFree)>;

ConnectionInfo parse(const std::string& url) {
  char* problem = nullptr;
  ConnectionInfo info(PQconninfoParse(url.c_str(), &problem), &PQconninfoFree);
  // libpq's own text quotes parts of the string, which may be a password: say the rule instead.
  if (problem != nullptr) PQfreemem(problem);
  if (!info) {
    throw ConfigError(
        "the database URL is not valid: PILLION_DATABASE_URL (or the option) takes "
        "postgresql://user:password@host:port/database or key=value pairs");
  }
  return info;
}

std::string quotedValue(const std::string& value) {
  std::string quoted = "'";
  for (const char c : value) {
    if (c == '\'' || c == '\\') quoted += '\\';
    quoted += c;
  }
  return quoted + '\'';
}

void addDefault(std::string& text, const PQconninfoOption* info, const std::string& keyword,
                const std::string& value) {
  for (const auto* option = info; option->keyword != nullptr; ++option) {
    if (keyword == option->keyword && option->val != nullptr) return;
  }
  text += keyword + '=' + quotedValue(value) + ' ';
}

std::string connectionString(const DatabaseOptions& options, const std::string& role) {
  const std::string url = base::configured(options.url, "PILLION_DATABASE_URL", "");
  const ConnectionInfo info = parse(url);
  std::string text;
  for (const auto* option = info.get(); option->keyword != nullptr; ++option) {
    if (option->val != nullptr)
      text += std::string(option->keyword) + '=' + quotedValue(option->val) + ' ';
  }
  addDefault(text, info.get(), "connect_timeout", std::to_string(options.connectTimeout.count()));
  addDefault(text, info.get(), "tcp_user_timeout", std::to_string(options.unackedTimeout.count()));
  addDefault(text, info.get(), "keepalives_idle", "10");
  addDefault(text, info.get(), "keepalives_interval", "5");
  addDefault(text, info.get(), "keepalives_count", "3");
  addDefault(text, info.get(), "application_name", "pillion " + role);
  return text;
}

std::string oneLine(std::string text) {
  for (char& c : text) {
    if (c == '\n' || c == '\t') c = ' ';
  }
  while (!text.empty() && text.back() == ' ') text.pop_back();
  return text;
}

#if PQXX_VERSION_MAJOR < 7
void forbidReconnect(Session& connection) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
  connection.inhibit_reactivation(true);
#pragma GCC diagnostic pop
}
#else
void forbidReconnect(Session&) {}  // libpqxx 7 never reconnects
#endif

/// What a role, a database or the environment may have set otherwise, for connections that serve
/// Pillion alone: handlers and publishers find theirs as they left it. Behind a pooler the session
/// is not ours to change, so functions set what they depend on once more, and the rest is looked at
/// when a connection begins (see requireCurrentSchema).
void settleSession(Session& connection) {
  pqxx::nontransaction tx{connection};
  if (tx.exec("select pg_backend_pid()")[0][0].as<int>() != connection.backendpid()) return;
  tx.exec(
      "set row_security = off; set bytea_output = hex; set datestyle = 'ISO'; set timezone ="
      " 'UTC'; set standard_conforming_strings = on; set default_transaction_isolation ="
      " 'read committed'; set default_transaction_read_only = off; set"
      " default_transaction_deferrable = off; set statement_timeout = 0; set lock_timeout = '10s';"
      " set idle_in_transaction_session_timeout = '60s'; set idle_session_timeout = 0; set "
      "search_path = pg_catalog, pg_temp;"
      " set synchronous_commit = local; set transform_null_equals = off; set array_nulls = on; set "
      "default_tablespace = ''; set"
      " default_table_access_method = 'heap'");
}

}  // namespace

std::string schemaOf(const DatabaseOptions& options) {
  return base::configured(options.schema, "PILLION_SCHEMA", "pillion");
}

std::unique_ptr<Connection> connect(const DatabaseOptions& options, const std::string& role,
                                    base::StopBound bound) {
  const std::string text = connectionString(options, role);
  try {
    auto connection = std::make_unique<Connection>(text, options.answerTimeout, std::move(bound));
    const base::Watchdog::Guard guard(connection->watchdog(), options.connectTimeout);
    forbidReconnect(*connection);
    (*connection)->set_client_encoding("UTF8");
    if (role.starts_with("consumer") || role.starts_with("publisher")) return connection;
    settleSession(*connection);
    return connection;
  } catch (const pqxx::failure& failure) {
    const std::string message = oneLine(failure.what());
    if (healsByWaiting(failure.what())) {
      throw DatabaseError(DatabaseError::Kind::Unavailable, "PostgreSQL is away: " + message);
    }
    throw ConfigError("PostgreSQL refuses the connection, check PILLION_DATABASE_URL or PG*: " +
                      message);
  }
}

bool isLostStatement(const pqxx::sql_error& error) {
  return error.sqlstate() == "26000" || error.sqlstate() == "42P05";
}

std::string firstLine(const std::string& text) {
  return base::printable(std::string_view(text).substr(0, text.find('\n')));
}

void guarded(const std::string& doing, const std::function<void()>& work) {
  using Kind = DatabaseError::Kind;
  const auto message = [&](const std::exception& cause) {
    return "PostgreSQL, " + doing + ": " + firstLine(cause.what());
  };
  try {
    work();
  } catch (const pqxx::in_doubt_error& cause) {
    throw DatabaseError(Kind::InDoubt, message(cause));
  } catch (const pqxx::broken_connection& cause) {
    throw DatabaseError(Kind::Unavailable, message(cause));
  } catch (const pqxx::undefined_table& cause) {
    throw SchemaError(message(cause) + "; run: pillion migrate");
  } catch (const pqxx::insufficient_privilege& cause) {
    // With row_security off, PostgreSQL refuses what a policy would hide a part of.
    const bool hidden = message(cause).find("row-level security") != std::string::npos;
    throw ConfigError(message(cause) +
                      (hidden ? "; switch it off for this table, or give the role BYPASSRLS"
                              : "; grant the role what docs/operating.md lists"));
  } catch (const pqxx::sql_error& cause) {
    if (cause.sqlstate() == "55P03") throw LockTimeout(message(cause));
    // Class 57 (operator intervention: shutdown, termination), 53 (resources), 40 (rollback) and 25
    // (read-only: the other node is the primary now) pass; the rest is a mistake somebody must
    // mend. So does a session that was reset: another one is prepared anew.
    const std::string state = cause.sqlstate().substr(0, 2);
    const bool passing = state == "57" || state == "53" || state == "40" || state == "25" ||
                         state == "08" || state == "55" || state.empty() || isLostStatement(cause);
    throw DatabaseError(passing ? Kind::Unavailable : Kind::Refused, message(cause));
  } catch (const pqxx::failure& cause) {
    throw DatabaseError(Kind::Unavailable, message(cause));
  }
}

void guarded(Connection& connection, const std::string& doing, const std::function<void()>& work) {
  try {
    const base::Watchdog::Guard guard(connection.watchdog(), connection.answerTimeout());
    guarded(doing, work);
  } catch (const DatabaseError& error) {
    if (!connection.watchdog().fired()) throw;
    using Kind = DatabaseError::Kind;
    throw DatabaseError(error.outcomeInDoubt() ? Kind::InDoubt : Kind::Unavailable,
                        "PostgreSQL, " + doing + ": no answer for " +
                            std::to_string(connection.answerTimeout().count()) +
                            " ms, or since the stop");
  }
}

}  // namespace pillion::postgres
