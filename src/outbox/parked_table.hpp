#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <pqxx/pqxx>
#include <string>
#include <vector>

#include "event/row.hpp"
#include "outbox/event_log.hpp"

// Every statement on the table `parked`.

namespace pillion::outbox {

/// Copies events from the outbox; those that are parked already stay as they are.
void park(pqxx::transaction_base& tx, const std::string& schema, const std::vector<Park>& events);
void unpark(pqxx::transaction_base& tx, const std::string& schema,
            const std::vector<std::int64_t>& ids);
/// They stay, and are no longer tried.
void markRefused(pqxx::transaction_base& tx, const std::string& schema,
                 const std::vector<std::int64_t>& ids);
void countAttempts(pqxx::transaction_base& tx, const std::string& schema,
                   const std::vector<std::int64_t>& ids);

/// Types of which events of these lanes wait for a queue.
std::vector<std::string> parkedTypes(pqxx::transaction_base& tx, const std::string& schema,
                                     Lanes lanes);
/// The oldest of them of a type: the first, and more while the payloads before stay below the
/// limit.
struct ReadLimits {
  std::size_t rows = 0;
  std::size_t bytes = 0;
};
std::vector<Row> readParked(pqxx::transaction_base& tx, const std::string& schema,
                            const std::string& type, Lanes lanes, ReadLimits limits);

struct ParkedCount {
  std::uint64_t events = 0;
  std::optional<double> oldestSeconds;
};
ParkedCount countParked(pqxx::transaction_base& tx, const std::string& schema);

}  // namespace pillion::outbox
