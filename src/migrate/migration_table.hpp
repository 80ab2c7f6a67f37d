#pragma once

#include <map>
#include <pillion/migrator.hpp>
#include <pqxx/pqxx>
#include <string>
#include <vector>

// Every statement on the table `migration`, and the script that goes with it.

namespace pillion::migrate {

/// Creates the schema and the table when missing, and makes starters wait for each other until the
/// transaction ends. Waits for a lock for 5 s at most (SQLSTATE 55P03), in this transaction. Two
/// that create at the same time: the second gets an error, and need only do it again.
void lockAndCreate(pqxx::transaction_base& tx, const std::string& schema);

/// version -> checksum; empty when schema or table are missing.
std::map<int, std::string> appliedVersions(pqxx::transaction_base& tx, const std::string& schema);

/// The tables of the schema on which row-level security applies to this role, as a list; empty for
/// none.
std::string tablesWithRowSecurity(pqxx::transaction_base& tx, const std::string& schema);

/// The parts of the partitioned tables that were detached, as a list; empty for none.
std::string detachedParts(pqxx::transaction_base& tx, const std::string& schema);

/// Who holds locks on the schema's tables now, as a sentence with their pids.
std::string lockHolders(pqxx::transaction_base& tx, const std::string& schema);

/// The functions whose own search path begins with another schema, with their arguments' types.
std::vector<std::string> strangeFunctions(pqxx::transaction_base& tx, const std::string& schema);

/// Gives these the path that they have after a fresh installation.
void mendFunctions(pqxx::transaction_base& tx, const std::string& schema);

void apply(pqxx::transaction_base& tx, const std::string& schema, const Migration& migration);

/// The whole as a text for psql.
std::string script(const std::string& schema, const std::vector<Migration>& migrations);

}  // namespace pillion::migrate
