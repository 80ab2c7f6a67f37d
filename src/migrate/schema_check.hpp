#pragma once

#include <pqxx/pqxx>
#include <string>

namespace pillion::migrate {

/// Throws SchemaError unless the schema holds exactly the migrations of this program. Says which of
/// the two is behind.
void requireCurrentSchema(pqxx::transaction_base& tx, const std::string& schema);

}  // namespace pillion::migrate
