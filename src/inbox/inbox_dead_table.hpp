#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <pqxx/pqxx>
#include <string>
#include <vector>

#include "inbox/inbox.hpp"

// Every statement on the table `inbox_dead`, besides the function give_up in sql/0003_inbox.sql.

namespace pillion::inbox {

/// A message on its way to the dead-letter queue.
struct DeadLetterRow {
  std::int64_t seq = 0;
  std::string message;  // see stored_job.hpp
  std::string reason;
  std::string error;
  int attempts = 0;
  std::string firstFailedAt;  // RFC 3339
  std::string lastFailedAt;
};

/// How long a letter that was taken is left to whoever took it.
inline constexpr std::chrono::milliseconds kLetterLease{10'000};

void insertDead(pqxx::transaction_base& tx, const std::string& schema, const std::string& consumer,
                const Job& job, const Failure& failure, int attempts);

/// Until the next is due, when there is one. Needs no right but to read.
std::optional<std::chrono::milliseconds> nextDeadIn(pqxx::transaction_base& tx,
                                                    const std::string& schema,
                                                    const std::string& consumer);

/// Takes letters that are due, for kLetterLease: the first few, of so many bytes together unless
/// the first is larger. They may be deleted later, too: that is tried, and undone.
std::vector<DeadLetterRow> takeDead(pqxx::work& tx, const std::string& schema,
                                    const std::string& consumer, std::size_t most,
                                    std::size_t bytes);
void deleteDead(pqxx::transaction_base& tx, const std::string& schema,
                const std::vector<std::int64_t>& letters);
/// They are due after this.
void postponeDead(pqxx::transaction_base& tx, const std::string& schema,
                  const std::vector<std::int64_t>& letters, std::chrono::milliseconds wait);
/// The same for the first that is due, which could not even be taken. Returns which it is.
std::optional<std::int64_t> postponeFirstDead(pqxx::transaction_base& tx, const std::string& schema,
                                              const std::string& consumer,
                                              std::chrono::milliseconds wait);

/// How many there are of each consumer, and how old the oldest is.
struct DeadCount {
  std::uint64_t letters = 0;
  std::chrono::milliseconds oldest{0};
};
std::map<std::string, DeadCount> countDead(pqxx::transaction_base& tx, const std::string& schema);

}  // namespace pillion::inbox
