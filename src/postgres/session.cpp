#include "postgres/session.hpp"

#include <libpq-events.h>
#include <libpq-fe.h>

#include <array>

namespace pillion::postgres {
namespace {

/// libpq calls it for every result of a connection, before anybody has it.
int noteResult(PGEventId id, void* info, void* seen) {
  if (id != PGEVT_RESULTCREATE) return 1;
  const auto* created = static_cast<const PGEventResultCreate*>(info);
  static_cast<CommandsSeen*>(seen)->note(PQcmdStatus(created->result));
  return 1;
}

thread_local PGconn* latest = nullptr;  // that was opened

#if PQXX_VERSION_MAJOR < 7
LibrarySession open(const std::string& text) {
  return LibrarySession(text);
}
#else
LibrarySession open(const std::string& text) {
  latest = PQconnectdb(text.c_str());
  if (latest == nullptr) throw std::bad_alloc();
  if (PQstatus(latest) != CONNECTION_OK) {
    const std::string problem = PQerrorMessage(latest);
    PQfinish(latest);
    throw pqxx::broken_connection(problem);
  }
  return LibrarySession::seize_raw_connection(latest);
}
#endif

}  // namespace

#if PQXX_VERSION_MAJOR < 7
ShownConnection::handle ShownConnection::do_startconnect(handle before) {
  return latest = connect_direct::do_startconnect(before);
}
#endif

OpenSession::OpenSession(const std::string& text)
    : session_(open(text)), connection_(std::exchange(latest, nullptr)) {
  PQregisterEventProc(connection_, noteResult, "pillion", &seen_);
}

bool OpenSession::isOpen() const {
  // Asked first: a handler may have closed it, and then libpq's is gone.
  return session_.is_open() && PQstatus(connection_) == CONNECTION_OK;
}

bool OpenSession::failed() const {
  return isOpen() && PQtransactionStatus(connection_) == PQTRANS_INERROR;
}

bool OpenSession::inTransaction() const {
  if (!isOpen()) return false;
  const PGTransactionStatusType status = PQtransactionStatus(connection_);
  return status != PQTRANS_IDLE && status != PQTRANS_UNKNOWN;
}

void CommandsSeen::note(std::string_view tag) {
  static constexpr std::array<std::string_view, 5> kRows{"INSERT", "UPDATE", "DELETE", "MERGE",
                                                         "COPY"};
  if (tag.empty()) return;  // a statement was prepared, or refused
  for (const std::string_view rows : kRows) {
    if (tag.starts_with(rows)) return;
  }
  rowsOnly = false;
  if (tag == "SET CONSTRAINTS") constraints = true;
  if (tag == "SAVEPOINT") ++savepoints;
  if (tag == "ROLLBACK") ++rollbacks;
}

}  // namespace pillion::postgres
