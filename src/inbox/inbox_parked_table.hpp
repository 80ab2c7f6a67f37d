#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <pillion/status.hpp>
#include <pqxx/pqxx>
#include <span>
#include <string>
#include <vector>

#include "inbox/inbox.hpp"

// Every statement on the table `inbox_parked`.

namespace pillion::inbox {

/// Throws SchemaError when the table's sequence is behind its rows: numbers would be given out
/// again.
void requireParkedSequence(pqxx::transaction_base& tx, const std::string& schema);

using Wait = std::chrono::milliseconds;

/// The first failure of an event.
void insertFailed(pqxx::transaction_base& tx, const std::string& schema,
                  const std::string& consumer, const Job& job, const amqp::Identity& identity,
                  const Failure& failure, Wait wait);

/// Parks the event behind the earlier ones of its key; false when there are none.
bool insertBehind(pqxx::transaction_base& tx, const std::string& schema,
                  const std::string& consumer, const Job& job, const amqp::Identity& identity);

/// How long an event whose type has no handler where it is stays there, until somebody else may
/// look: so long at first, then a quarter of the time since, and when there is surely none.
inline constexpr Wait kUnknownAgain{2'000};
inline constexpr Wait kUnknownAgainMost{60'000};
inline constexpr Wait kUnknownMost{3'600'000};

/// One whose type has no handler here: to be tried by others.
void insertUnknown(pqxx::transaction_base& tx, const std::string& schema,
                   const std::string& consumer, const Job& job, const amqp::Identity& identity);

/// When an event that was taken is due again, should whoever took it not be heard of.
inline constexpr Wait kLease{30'000};

/// One event that is due, with its attempt counted; of the types that were `left` for want of a
/// handler only when nobody else has taken it for a while.
std::optional<ParkedEvent> takeDue(pqxx::transaction_base& tx, const std::string& schema,
                                   const std::string& consumer,
                                   const std::vector<std::string>& left);
/// As if it had not been taken, unless somebody else has taken it since.
void returnTaken(pqxx::transaction_base& tx, const std::string& schema, const ParkedEvent& event);
/// For an instance that knows its type; the attempt is not counted. False, and nothing has changed:
/// none has been found for kUnknownMost.
bool leaveToOthers(pqxx::transaction_base& tx, const std::string& schema, const ParkedEvent& event);
std::optional<Wait> nextDueIn(pqxx::transaction_base& tx, const std::string& schema,
                              const std::string& consumer);

/// Locks the row until the transaction ends, but lets others queue up behind it. False when the row
/// is not as it was taken, or somebody else works on it.
bool lockTaken(pqxx::transaction_base& tx, const std::string& schema, const ParkedEvent& event);
/// The next ones of its key, locked in the same way.
std::vector<ParkedEvent> lockBehind(pqxx::transaction_base& tx, const std::string& schema,
                                    const std::string& consumer, const ParkedEvent& event,
                                    int most);
/// Removes it and those behind it, and makes the next of its key due.
void removeParked(pqxx::transaction_base& tx, const std::string& schema,
                  const std::string& consumer, const ParkedEvent& event,
                  std::span<const ParkedEvent> behind);
/// The same, and it goes to the dead-letter queue after so many attempts; its id is forgotten.
void giveUpParked(pqxx::transaction_base& tx, const std::string& schema, const ParkedEvent& event,
                  const Failure& failure, int attempts);
void noteFailure(pqxx::transaction_base& tx, const std::string& schema, const ParkedEvent& event,
                 const Failure& failure, Wait wait);

/// Without those that were given up.
std::vector<ConsumerStatus> countParked(pqxx::transaction_base& tx, const std::string& schema);

}  // namespace pillion::inbox
