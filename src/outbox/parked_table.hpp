#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <pqxx/pqxx>
#include <string>
#include <vector>

#include "event/row.hpp"
#include "outbox/event_log.hpp"

// Every statement on the table `parked`.

namespace pillion::outbox {

/// Copies events from the outbox (those that are parked already stay as they are), removes what was
/// published, notes what was tried.
void writeParked(pqxx::transaction_base& tx, const std::string& schema,
                 const ParkedChanges& changes);

ParkedSummary summarizeParked(pqxx::transaction_base& tx, const std::string& schema, Lanes lanes,
                              const HoldPolicy& hold);

/// Those of these lanes that are parked since relays ended over them.
std::vector<std::int64_t> readSuspects(pqxx::transaction_base& tx, const std::string& schema,
                                       Lanes lanes);

/// The oldest first: one, and more while the payloads before stay below the limit.
struct ReadLimits {
  std::size_t rows = 0;
  std::size_t bytes = 0;
};
std::vector<Row> readUnroutable(pqxx::transaction_base& tx, const std::string& schema,
                                const std::string& type, Lanes lanes, ReadLimits limits);
HeldRows readHeld(pqxx::transaction_base& tx, const std::string& schema,
                  const std::vector<std::string>& keys, const HoldPolicy& hold, ReadLimits limits);
std::vector<Row> readRefused(pqxx::transaction_base& tx, const std::string& schema, Lanes lanes,
                             std::int64_t after);

struct ParkedCount {
  std::uint64_t events = 0;
  std::map<std::string, std::uint64_t> byReason;
  std::optional<double> oldestSeconds;
};
ParkedCount countParked(pqxx::transaction_base& tx, const std::string& schema);

}  // namespace pillion::outbox
