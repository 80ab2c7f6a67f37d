#pragma once

#include <pillion/status.hpp>
#include <pqxx/pqxx>
#include <string>
#include <vector>

namespace pillion::outbox {

/// Who keeps the ring's space from being given back: transactions that have been open for longer
/// than `least`, and prepared ones. Never the text of a query.
std::vector<SpaceHolder> readSpaceHolders(pqxx::transaction_base& tx, const std::string& schema,
                                          std::chrono::seconds least);

}  // namespace pillion::outbox
