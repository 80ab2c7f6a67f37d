#pragma once

#include <pqxx/pqxx>
#include <string>

// The sequences that number the rows of the outbox's tables and of the inbox's.

namespace pillion::outbox {

/// Throws SchemaError when a sequence is behind the rows that it numbers: ids would be given out
/// again.
void requireSequences(pqxx::transaction_base& tx, const std::string& schema);

/// Sets sequences that are behind forward, never back. Whoever could take a number meanwhile waits
/// until the transaction ends.
void advanceSequences(pqxx::transaction_base& tx, const std::string& schema);

}  // namespace pillion::outbox
