#pragma once

#include <functional>
#include <memory>
#include <pillion/options.hpp>
#include <pqxx/pqxx>
#include <string>

namespace pillion::postgres {

/// The schema that the options and the environment name, unquoted.
std::string schemaOf(const DatabaseOptions& options);

/// Opens a connection that never reconnects by itself: a silent reconnect would lose the session's
/// lease, settings and prepared statements. `role` ends up in application_name, for
/// pg_stat_activity. Throws ConfigError for what waiting cannot heal (bad URL, unknown host, wrong
/// password, no such database), else DatabaseError.
std::unique_ptr<pqxx::connection> connect(const DatabaseOptions& options, const std::string& role);

/// Runs work on a connection of ours and turns pqxx exceptions into Pillion's. Pillion's own pass.
/// `doing` completes "PostgreSQL, …:" in the message.
void guarded(const std::string& doing, const std::function<void()>& work);

/// The first line of a PostgreSQL error: its message without the DETAIL, which can hold row values.
std::string firstLine(const std::string& text);

}  // namespace pillion::postgres
