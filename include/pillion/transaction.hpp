/// The transaction types that Pillion's users meet.
#pragma once

#include <pqxx/pqxx>

namespace pillion {

/// What `publish(tx, …)` takes and what a consumer's handler is given: any libpqxx transaction that
/// really is one (`pqxx::work`, `pqxx::subtransaction`, …). An autocommit `pqxx::nontransaction` is
/// not a dbtransaction, so publishing on one does not compile: row and event would be two commits.
///
/// One connection, and so one transaction, belongs to one thread
/// (libpqxx, "Thread safety").
using Transaction = pqxx::dbtransaction;

}  // namespace pillion
