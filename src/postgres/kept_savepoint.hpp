#pragma once

#include <pqxx/pqxx>
#include <string>

#include "postgres/statement.hpp"

namespace pillion::postgres {

/// A savepoint for code that is not ours. What it does by `commit` and `abort` reaches this object
/// and not the server, so that we know of it and the savepoint is there until the transaction ends.
class KeptSavepoint : public pqxx::subtransaction {
 public:
#if PQXX_VERSION_MAJOR >= 7
  KeptSavepoint(pqxx::dbtransaction& outer, const std::string& name)
      : pqxx::subtransaction(outer, name) {}
  /// As the server knows it, quoted.
  [[nodiscard]] std::string quotedName() const {
    return quote_name(std::string(pqxx::transaction_focus::name()));
  }
#else
  KeptSavepoint(pqxx::dbtransaction& outer, const std::string& name)
      : pqxx::internal::namedclass("subtransaction", outer.conn().adorn_name(name)),
        pqxx::subtransaction(outer, name) {
    ensureBegun(*this);
  }
  [[nodiscard]] std::string quotedName() const {
    return quote_name(name());
  }
#endif

  [[nodiscard]] bool committed() const {
    return committed_;
  }
  /// Also by libpqxx 6, after an SQL error.
  [[nodiscard]] bool aborted() const {
    return aborted_;
  }

 private:
  void do_commit() override {
    committed_ = true;
  }
  void do_abort() override {
    aborted_ = true;
  }

  bool committed_ = false;
  bool aborted_ = false;
};

}  // namespace pillion::postgres
