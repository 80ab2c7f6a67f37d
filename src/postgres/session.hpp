#pragma once

#include <pqxx/pqxx>
#include <string>
#include <string_view>
#include <utility>

struct pg_conn;  // libpq's

namespace pillion::postgres {

#if PQXX_VERSION_MAJOR < 7
/// What libpqxx's transactions are made on.
using Session = pqxx::connection_base;

/// libpqxx 6 opens a connection by a policy, and shows libpq's to nobody else.
class ShownConnection : public pqxx::connect_direct {
 public:
  explicit ShownConnection(const std::string& text) : connect_direct(text) {}
  handle do_startconnect(handle before) override;
};
using LibrarySession = pqxx::basic_connection_base<ShownConnection>;
#else
using Session = pqxx::connection;
using LibrarySession = pqxx::connection;
#endif

/// Which commands the server has completed: their tags (PostgreSQL, "Message Formats",
/// CommandComplete), as libpq sees them in every answer, also in those of a text with many
/// statements. Costs no question.
struct CommandsSeen {
  bool rowsOnly = true;      ///< nothing but INSERT, UPDATE, DELETE, MERGE and COPY
  bool constraints = false;  ///< SET CONSTRAINTS
  unsigned savepoints = 0;
  unsigned rollbacks = 0;  ///< ROLLBACK, with and without TO

  void note(std::string_view tag);
};

/// A database session by libpqxx whose libpq connection is within reach. One thread.
class OpenSession {
 public:
  /// Opens it. Throws what libpqxx throws.
  explicit OpenSession(const std::string& text);

  operator Session&() { return session_; }
  Session* operator->() { return &session_; }

  /// Since this was asked last.
  CommandsSeen takeSeen() { return std::exchange(seen_, {}); }
  // As the server's latest answer had it.
  [[nodiscard]] bool isOpen() const;
  /// A transaction is open, failed or not.
  [[nodiscard]] bool inTransaction() const;
  /// It has failed: PostgreSQL answers nothing but its end.
  [[nodiscard]] bool failed() const;

 private:
  CommandsSeen seen_;
  LibrarySession session_;  // ends before what it notes
  pg_conn* connection_;
};

}  // namespace pillion::postgres
