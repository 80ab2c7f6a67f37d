#pragma once

#include <map>
#include <pillion/migrator.hpp>
#include <pqxx/pqxx>
#include <string>

// Every statement on the table `migration`, and the script that goes with it.

namespace pillion::migrate {

/// Creates the schema and the table when missing, after taking the lock that makes starters wait
/// for each other until the transaction ends.
void lockAndCreate(pqxx::transaction_base& tx, const std::string& schema);

/// version -> checksum; empty when schema or table are missing.
std::map<int, std::string> appliedVersions(pqxx::transaction_base& tx, const std::string& schema);

void apply(pqxx::transaction_base& tx, const std::string& schema, const Migration& migration);

/// The whole as a text for psql.
std::string script(const std::string& schema, const std::vector<Migration>& migrations);

}  // namespace pillion::migrate
