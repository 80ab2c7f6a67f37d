#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <pqxx/pqxx>
#include <string>
#include <vector>

#include "outbox/parked.hpp"

// Every statement on the table `parked`.

namespace pillion::outbox {

/// Copies events from the outbox, in their order, removes what is settled, notes what was tried.
void writeParked(pqxx::transaction_base& tx, const std::string& schema,
                 const ParkedChanges& changes);

ParkedSummary summarizeParked(pqxx::transaction_base& tx, const std::string& schema, Lanes lanes);

/// One, and more while the payloads before stay below the limit.
struct ReadLimits {
  std::size_t rows = 0;
  std::size_t bytes = 0;
};
/// In a transaction of its own, whose settings it makes.
ParkedAnswer answerParked(pqxx::transaction_base& tx, const std::string& schema,
                          const ParkedQuestion& question, ReadLimits limits);

/// Those of these lanes that are parked since relays ended over them.
std::vector<std::int64_t> readSuspects(pqxx::transaction_base& tx, const std::string& schema,
                                       Lanes lanes);

/// After the events of the log were stamped anew: what is parked stays so, and is not taken from
/// the log once more.
void stampParkedAnew(pqxx::transaction_base& tx, const std::string& schema);

struct ParkedCount {
  std::uint64_t events = 0;
  std::map<std::string, std::uint64_t> byReason;
  std::optional<double> oldestSeconds;
};
ParkedCount countParked(pqxx::transaction_base& tx, const std::string& schema);

}  // namespace pillion::outbox
