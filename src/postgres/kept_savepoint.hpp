#pragma once

#include <pqxx/pqxx>
#include <string>

namespace pillion::postgres {

/// A savepoint for code that is not ours. What it does by `commit` and `abort` reaches this object
/// and not the server, so that we know of it and the savepoint is there until the transaction ends.
/// Unless it `isReal` the server hears nothing of it, where libpqxx lets us.
class KeptSavepoint : public pqxx::subtransaction {
 public:
#if PQXX_VERSION_MAJOR >= 7
  KeptSavepoint(pqxx::dbtransaction& outer, const std::string& name, bool)
      : pqxx::subtransaction(outer, name) {}
  /// As the server knows it, quoted.
  [[nodiscard]] std::string quotedName() const {
    return quote_name(std::string(pqxx::transaction_focus::name()));
  }
#else
  KeptSavepoint(pqxx::dbtransaction& outer, const std::string& name, bool isReal)
      : pqxx::internal::namedclass("subtransaction", outer.conn().adorn_name(name)),
        pqxx::subtransaction(outer, name),
        isReal_(isReal) {
    Begin();  // before its first statement, which exec_params would not do
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
#if PQXX_VERSION_MAJOR < 7
  void do_begin() override {
    if (isReal_) direct_exec(("savepoint " + quotedName()).c_str());
  }
#endif
  void do_commit() override {
    committed_ = true;
  }
  void do_abort() override {
    aborted_ = true;
  }

#if PQXX_VERSION_MAJOR < 7
  bool isReal_;
#endif
  bool committed_ = false;
  bool aborted_ = false;
};

}  // namespace pillion::postgres
