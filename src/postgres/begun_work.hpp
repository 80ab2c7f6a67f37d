#pragma once

#include <pqxx/pqxx>
#include <string>

#include "postgres/session.hpp"

namespace pillion::postgres {

/// A transaction, read committed whatever the session's default is, whose first statements travel
/// with its BEGIN: that spares a round trip.
#if PQXX_VERSION_MAJOR >= 7
class BegunWork final : public pqxx::internal::basic_transaction {
 public:
  BegunWork(Session& session, const std::string& first)
      : basic_transaction(session, pqxx::zview("begin isolation level read committed; " + first)) {}
  ~BegunWork() noexcept override { close(); }
};
#else
class BegunWork final : public pqxx::internal::basic_transaction {
 public:
  // libpqxx puts the level behind SET TRANSACTION ISOLATION LEVEL, as it is.
  BegunWork(Session& session, const std::string& first)
      : namedclass("transaction"),
        basic_transaction(session, "READ COMMITTED; " + first, pqxx::read_write) {
    Begin();
  }
  ~BegunWork() noexcept override { End(); }
};
#endif

}  // namespace pillion::postgres
