#pragma once

#include <memory>
#include <pillion/event.hpp>
#include <stdexcept>
#include <string>

#include "inbox/handler_table.hpp"

namespace pillion::inbox {

/// The handler did not get through: its effects are rolled back. The text holds no row values.
class HandlerFailed : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// What the inbox says of an id that was recorded, or was to be.
enum class Claim {
  New,
  Duplicate,  ///< the consumer has applied it already
  Forgotten,  ///< it is so old that it may have been applied and forgotten since
};

/// The transaction of one event. Without `commit` it is rolled back when it ends.
class InboxTransaction {
 public:
  virtual ~InboxTransaction() = default;
  /// Records the id. Waits for another transaction that is recording the same id. To be committed
  /// only when it is New.
  virtual Claim claim(const std::string& eventId) = 0;
  /// Runs the handler in a savepoint. Throws HandlerFailed, or lets RejectEvent through.
  virtual void run(const Handler& handler, const Event& event) = 0;
  /// Throws DatabaseError; when that is in doubt, ask the inbox again with a new transaction.
  virtual void commit() = 0;
};

/// The consumer's whole view of the database: narrow, so that a simulator can stand in for it. One
/// thread. Calls throw DatabaseError when the database is away; the inbox is then useless and a new
/// one is opened.
class Inbox {
 public:
  virtual ~Inbox() = default;
  /// Can it still be known whether this id was applied?
  [[nodiscard]] virtual bool remembers(const std::string& eventId) const = 0;
  virtual std::unique_ptr<InboxTransaction> begin() = 0;
  /// Forgets what has left the dedupe window.
  virtual void forgetOld() = 0;
};

}  // namespace pillion::inbox
