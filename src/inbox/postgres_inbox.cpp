#include "inbox/postgres_inbox.hpp"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <pillion/error.hpp>
#include <pillion/log.hpp>
#include <utility>

#include "event/event_id.hpp"
#include "migrate/schema_check.hpp"
#include "postgres/connection.hpp"
#include "postgres/statement.hpp"

namespace pillion::inbox {
namespace {

/// Instances and producers do not agree on the time to the second.
constexpr std::chrono::hours kClockSlack{1};
/// No child that holds ids younger than this can have been emptied.
constexpr std::chrono::hours kSurelyRemembered{18};
/// Ids made further ahead than this could be in a child that is about to be emptied.
constexpr std::chrono::hours kMostAhead{24};

class PostgresInboxTransaction : public InboxTransaction {
 public:
  PostgresInboxTransaction(pqxx::connection& connection, const std::string& schema,
                           const std::string& consumer, WallTime now)
      : connection_(connection),
        schema_(schema),
        consumer_(consumer),
        now_(now),
        work_(connection) {}

  Claim claim(const std::string& eventId) override {
    Claim result = Claim::Duplicate;
    postgres::guarded("recording an event in the inbox", [&] {
      if (!claimId(work_, consumer_, eventId)) return;
      result = isForgotten(eventId) ? Claim::Forgotten : Claim::New;
    });
    return result;
  }

  void run(const Handler& handler, const Event& event) override {
    try {
      // What the handler is given is a savepoint, so nothing it does to it ends the transaction
      // that holds the inbox row. Committing it once more is a no-op; after an abort or a swallowed
      // SQL error it throws.
      pqxx::subtransaction savepoint{work_, "pillion_handler"};
      postgres::ensureBegun(savepoint);
      handler(event, savepoint);
      savepoint.commit();
    } catch (const RejectEvent&) {
      requireConnection();
      throw;
    } catch (const pqxx::sql_error& error) {
      requireConnection();
      requireServer(error);
      throw HandlerFailed(withoutValues(error));
    } catch (const std::exception& error) {
      requireConnection();
      throw HandlerFailed(postgres::firstLine(error.what()));
    } catch (...) {
      requireConnection();
      throw HandlerFailed("an exception that is no std::exception");
    }
  }

  void commit() override {
    try {
      work_.commit();
    } catch (const pqxx::in_doubt_error&) {
      throw DatabaseError(DatabaseError::Kind::InDoubt, "PostgreSQL left a COMMIT unanswered");
    } catch (const pqxx::broken_connection& error) {
      throw DatabaseError(DatabaseError::Kind::Unavailable,
                          "PostgreSQL, committing: " + postgres::firstLine(error.what()));
    } catch (const pqxx::failure& error) {
      requireConnection();
      throw HandlerFailed(postgres::firstLine(error.what()));  // a deferred constraint, say
    }
  }

 private:
  /// An exception may only be the echo of a lost connection, which is no failure of the handler.
  void requireConnection() const {
    if (connection_.is_open()) return;
    throw DatabaseError(DatabaseError::Kind::Unavailable, "PostgreSQL is away");
  }

  /// Nor is it a failure of the handler that the server shuts down or has run out of something.
  static void requireServer(const pqxx::sql_error& error) {
    const std::string& state = error.sqlstate();
    const bool passing =
        state.starts_with("53") || state.starts_with("57P") || state.starts_with("58");
    if (!passing) return;
    throw DatabaseError(DatabaseError::Kind::Unavailable,
                        "PostgreSQL, in a handler: " + postgres::firstLine(error.what()));
  }

  /// The message of a data exception quotes the value, which is the service's own business.
  static std::string withoutValues(const pqxx::sql_error& error) {
    if (!error.sqlstate().starts_with("22")) return postgres::firstLine(error.what());
    return "SQLSTATE " + error.sqlstate() + ", a value that PostgreSQL does not take";
  }

  /// Consumers of one schema share the ring, and one with a shorter window may have emptied the
  /// child of this id a moment ago. Asked after the insert, which such a one had to wait for.
  bool isForgotten(const std::string& eventId) {
    const auto made = timeOfEventId(eventId);
    if (!made || *made > now_ - kSurelyRemembered) return false;
    return *made < lockHorizon(work_, schema_);
  }

  pqxx::connection& connection_;
  const std::string& schema_;
  const std::string& consumer_;
  WallTime now_;
  pqxx::work work_;
};

}  // namespace

PostgresInbox::PostgresInbox(const DatabaseOptions& options, std::string consumer,
                             std::chrono::hours window, const base::Clock& clock)
    : schema_(postgres::schemaOf(options)),
      consumer_(std::move(consumer)),
      window_(window),
      clock_(clock),
      connection_(postgres::connect(options, "consumer " + consumer_)) {
  postgres::guarded("opening the inbox", [&] {
    pqxx::nontransaction tx{*connection_};
    migrate::requireCurrentSchema(tx, schema_);
    horizon_ = readHorizon(tx, schema_);
    prepareClaim(*connection_, schema_);
  });
}

bool PostgresInbox::remembers(const std::string& eventId) const {
  const auto made = timeOfEventId(eventId);
  if (!made) return true;  // other versions are forgotten by the time they were applied
  const auto now = clock_.wall();
  return *made >= std::max(horizon_, now - window_) && *made <= now + kMostAhead;
}

std::unique_ptr<InboxTransaction> PostgresInbox::begin() {
  std::unique_ptr<InboxTransaction> transaction;
  postgres::guarded("beginning a transaction", [&] {
    transaction =
        std::make_unique<PostgresInboxTransaction>(*connection_, schema_, consumer_, clock_.wall());
  });
  return transaction;
}

void PostgresInbox::forgetOld() {
  const auto now = clock_.wall();
  const auto before = now - window_ - kClockSlack;
  postgres::guarded("forgetting old events", [&] {
    for (const OldChild& old : childrenBefore(before, now)) truncate(old);
    for (bool more = true; more;) {
      pqxx::work tx{*connection_};
      more = deleteOther(tx, schema_, before);
      tx.commit();
    }
    pqxx::nontransaction tx{*connection_};
    horizon_ = readHorizon(tx, schema_);
  });
}

void PostgresInbox::truncate(const OldChild& old) {
  try {
    pqxx::work tx{*connection_};
    if (truncateChild(tx, schema_, old)) logger()->info("inbox child {} was emptied", old.child);
    tx.commit();
  } catch (const pqxx::sql_error& error) {
    // In use (55P03), or not ours to truncate: space waits, delivery does not.
    logger()->debug("inbox child {} stays: {}", old.child, error.sqlstate());
  }
}

}  // namespace pillion::inbox
