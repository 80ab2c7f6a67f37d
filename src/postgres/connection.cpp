#include "postgres/connection.hpp"

#include <libpq-fe.h>

#include <array>
#include <memory>
#include <pillion/error.hpp>

#include "base/environment.hpp"

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

/// libpq gives a connection failure no SQLSTATE, so the text decides. What is not recognised (also
/// in another language) is taken for an outage, which is waited for.
bool healsByWaiting(const std::string& message) {
  static constexpr std::array kFinal = {"could not translate host name",
                                        "password authentication failed",
                                        "no password supplied",
                                        "authentication failed",
                                        "does not exist",
                                        "no pg_hba.conf entry",
                                        "is not permitted to log in",
                                        "permission denied for database",
                                        "invalid port number",
                                        "invalid integer value",
                                        "server does not support SSL",
                                        "certificate verify failed"};
  for (const char* sign : kFinal) {
    if (message.find(sign) != std::string::npos) return false;
  }
  return true;
}

std::string oneLine(std::string text) {
  for (char& c : text) {
    if (c == '\n' || c == '\t') c = ' ';
  }
  while (!text.empty() && text.back() == ' ') text.pop_back();
  return text;
}

#if PQXX_VERSION_MAJOR < 7
void forbidReconnect(pqxx::connection& connection) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
  connection.inhibit_reactivation(true);
#pragma GCC diagnostic pop
}
#else
void forbidReconnect(pqxx::connection&) {}  // libpqxx 7 never reconnects
#endif

}  // namespace

std::string schemaOf(const DatabaseOptions& options) {
  return base::configured(options.schema, "PILLION_SCHEMA", "pillion");
}

std::unique_ptr<pqxx::connection> connect(const DatabaseOptions& options, const std::string& role) {
  const std::string text = connectionString(options, role);
  try {
    auto connection = std::make_unique<pqxx::connection>(text);
    forbidReconnect(*connection);
    connection->set_client_encoding("UTF8");
    return connection;
  } catch (const pqxx::failure& failure) {
    const std::string message = oneLine(failure.what());
    if (healsByWaiting(message)) {
      throw DatabaseError(DatabaseError::Kind::Unavailable, "PostgreSQL is away: " + message);
    }
    throw ConfigError("PostgreSQL refuses the connection, check PILLION_DATABASE_URL or PG*: " +
                      message);
  }
}

std::string firstLine(const std::string& text) {
  return text.substr(0, text.find('\n'));
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
    throw ConfigError(message(cause) + "; grant the role what docs/operating.md lists");
  } catch (const pqxx::sql_error& cause) {
    // Class 57 (operator intervention: shutdown, termination), 53 (resources), 40 (rollback) and 25
    // (read-only: the other node is the primary now) pass; the rest is a mistake somebody must
    // mend.
    const std::string state = cause.sqlstate().substr(0, 2);
    const bool passing = state == "57" || state == "53" || state == "40" || state == "25" ||
                         state == "08" || state == "55" || state.empty();
    throw DatabaseError(passing ? Kind::Unavailable : Kind::Refused, message(cause));
  } catch (const pqxx::failure& cause) {
    throw DatabaseError(Kind::Unavailable, message(cause));
  }
}

}  // namespace pillion::postgres
