#include "inbox/postgres_inbox.hpp"

#include <algorithm>
#include <pillion/error.hpp>
#include <utility>

#include "base/log_line.hpp"
#include "event/event_id.hpp"
#include "inbox/inbox_parked_table.hpp"
#include "inbox/postgres_inbox_transaction.hpp"
#include "migrate/meta_table.hpp"
#include "migrate/schema_check.hpp"
#include "postgres/statement.hpp"

namespace pillion::inbox {
namespace {

/// Instances and producers do not agree on the time to the second.
constexpr std::chrono::hours kClockSlack{1};
/// Ids made further ahead than this could be in a child that is about to be emptied.
constexpr std::chrono::hours kMostAhead{24};
/// No consumer remembers for longer (consumer.hpp).
constexpr std::chrono::hours kLongestWindow{20 * 24};

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
    requireParkedSequence(tx, schema_);
    identity_ = migrate::inboxIdentity(tx, schema_);
    horizon_ = readHorizon(tx, schema_);
    setClock(readClock(tx));
    functionsSet_ = anyFunctionSets(tx, schema_);
    prepareClaim(*connection_, schema_);
  });
  own("noting the dedupe window",
      [&](auto& tx) { longestWindow_ = agreeOnWindow(tx, schema_, consumer_, window_); });
}

void PostgresInbox::setClock(WallTime server) {
  serverTime_ = server;
  readAt_ = clock_.boot();
}

WallTime PostgresInbox::now() const {
  return serverTime_ + std::chrono::duration_cast<WallTime::duration>(clock_.boot() - readAt_);
}

bool PostgresInbox::remembers(const std::string& eventId) const {
  const auto made = timeOfEventId(eventId);
  if (!made) return true;  // other versions are forgotten by the time they were applied
  const auto now = this->now();
  return *made >= std::max(horizon_, now - window_) && *made <= now + kMostAhead;
}

std::unique_ptr<InboxTransaction> PostgresInbox::begin() {
  std::unique_ptr<InboxTransaction> transaction;
  postgres::guarded("beginning a transaction", [&] {
    transaction = std::make_unique<PostgresInboxTransaction>(connection_->session(), schema_,
                                                             consumer_, functionsSet_, now());
  });
  return transaction;
}

/// In a transaction of its own, of the inbox's.
template <typename Work>
void PostgresInbox::own(const char* doing, Work work) {
  postgres::guarded(doing, [&] {
    pqxx::work tx{*connection_};
    tx.exec(kFreshSettings + std::string("; ") + postgres::kOwnTransaction);
    work(tx);
    tx.commit();
  });
}

bool PostgresInbox::forgetOld() {
  bool more = false;
  own("noting the dedupe window", [&](auto& tx) {
    setClock(readClock(tx));
    longestWindow_ = agreeOnWindow(tx, schema_, consumer_, window_);
  });
  const auto now = this->now();
  postgres::guarded("forgetting old events", [&] {
    for (const OldChild& old : childrenBefore(now - longestWindow_ - kClockSlack, now)) {
      truncate(old);
    }
  });
  own("forgetting old events", [&](auto& tx) {
    more = deleteOther(tx, schema_, consumer_, now - window_ - kClockSlack,
                       now - kLongestWindow - kClockSlack);
    horizon_ = readHorizon(tx, schema_);
  });
  return more;
}

std::optional<ParkedEvent> PostgresInbox::takeDue(const std::vector<std::string>& left) {
  std::optional<ParkedEvent> event;
  own("looking for parked events",
      [&](auto& tx) { event = inbox::takeDue(tx, schema_, consumer_, left); });
  return event;
}

void PostgresInbox::giveBack(const ParkedEvent& event) {
  own("giving a parked event back", [&](auto& tx) { returnTaken(tx, schema_, event); });
}

bool PostgresInbox::leaveToOthers(const ParkedEvent& event) {
  bool left = false;
  own("leaving a parked event to others",
      [&](auto& tx) { left = inbox::leaveToOthers(tx, schema_, event); });
  return left;
}

std::optional<std::chrono::milliseconds> PostgresInbox::nextDueIn() {
  std::optional<std::chrono::milliseconds> next;
  own("looking for parked events",
      [&](auto& tx) { next = inbox::nextDueIn(tx, schema_, consumer_); });
  return next;
}

void PostgresInbox::cancelQuery() noexcept {
  try {
    (*connection_)->cancel_query();
  } catch (const std::exception& error) {
    base::log.warn("a query could not be cancelled: {}", postgres::firstLine(error.what()));
  }
}

void PostgresInbox::truncate(const OldChild& old) {
  try {
    pqxx::work tx{*connection_};
    tx.exec(std::string(kFreshSettings) + "; set local lock_timeout = '1s'");
    if (truncateChild(tx, schema_, old)) base::log.info("inbox child {} was emptied", old.child);
    tx.commit();
  } catch (const pqxx::sql_error& error) {
    // In use (55P03), or not ours to truncate: space waits, delivery does not.
    base::log.debug("inbox child {} stays: {}", old.child, error.sqlstate());
  }
}

}  // namespace pillion::inbox
