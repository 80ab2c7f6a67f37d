// What the tables say in the end: the product table is the truth, the two caches are compared to
// it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "fleet.hpp"

namespace pillion::warehouse {

struct ServiceAudit {
  std::string service;
  std::int64_t applied = 0;  // handler runs that were committed
  std::int64_t appliedTwice = 0;
  std::int64_t lost = 0;
  std::int64_t outOfOrder = 0;
  std::int64_t different = 0;  // products whose name or deletion is not the last one
  std::uint64_t delivered = 0;
  std::uint64_t duplicates = 0;
  std::uint64_t deadLettered = 0;

  bool clean() const {
    return appliedTwice == 0 && lost == 0 && outOfOrder == 0 && different == 0 && deadLettered == 0;
  }
};

struct Audit {
  std::int64_t committed = 0;  // one event per version of each product
  std::uint64_t pending = 0;
  std::vector<ServiceAudit> consumers;

  // `acknowledged`: changes that a client was told of; each must have been committed.
  bool clean(std::int64_t acknowledged) const;
  std::string table() const;
};

// Changes committed so far, and events applied so far in one consuming service.
std::int64_t committedChanges(const Fleet& fleet);
std::int64_t appliedEvents(const Fleet& fleet, const std::string& service);

Audit audit(const Fleet& fleet);

}  // namespace pillion::warehouse
