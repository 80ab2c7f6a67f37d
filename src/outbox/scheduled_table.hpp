#pragma once

#include <chrono>
#include <cstddef>
#include <optional>
#include <pillion/event.hpp>
#include <pqxx/pqxx>
#include <string>

#include "outbox/row_columns.hpp"

// Every statement on the table `scheduled`: events that are due later.

namespace pillion::outbox {

/// Writes one event. Without a name of its own on the connection: such events are few.
void schedule(pqxx::transaction_base& tx, const std::string& schema, const Event& event,
              const Origin& origin);

/// Moves due events into the outbox, at most so many and about so many bytes of them.
struct MovedDue {
  std::size_t events = 0;
  std::optional<std::chrono::milliseconds> nextIn;  // until the next one is due, when there is one
};
MovedDue moveDue(pqxx::transaction_base& tx, const std::string& schema, std::size_t rowLimit,
                 std::size_t byteLimit);

/// How many wait.
std::uint64_t countScheduled(pqxx::transaction_base& tx, const std::string& schema);

}  // namespace pillion::outbox
