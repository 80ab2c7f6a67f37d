/// Publishing again what the outbox still holds.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <pillion/event.hpp>
#include <pillion/options.hpp>
#include <string>

namespace pillion {

/// Which published events; what is not set restricts nothing. Events are kept for
/// `RelayOptions::retention` at least.
struct ReplayFilter {
  std::optional<Event::Time> from = std::nullopt;  ///< written at or after, by the database's clock
  std::optional<Event::Time> to = std::nullopt;    ///< written before
  std::string type = "";     ///< AMQP topic pattern: `*` one word, `#` any number of words
  std::string key = "";      ///< exact
  std::int64_t firstId = 0;  ///< outbox ids, both included
  std::optional<std::int64_t> lastId = std::nullopt;
};

struct ReplayOptions {
  DatabaseOptions database = {};

  /// New event ids: consumers apply them as new events. Without it ids stay, and every consumer
  /// that has applied an event within its dedupe window takes it for the duplicate that it is;
  /// those that have not, or whose queue lost it, apply it.
  bool asNew = false;

  /// Count only.
  bool dryRun = false;

  /// Events per transaction. Higher is faster, and holds the events up longer before the relay sees
  /// them.
  std::size_t batch = 1'000;
};

/// Writes copies of the events to the end of the outbox, in their old order, in transactions of
/// `batch`; the relay publishes them as any other. Among the events of its key a copy has the place
/// of its replay. Events written meanwhile, and the copies themselves, are not replayed.
/// Returns how many. Throws ConfigError, SchemaError or DatabaseError; what was committed before
/// stays, and running it again is safe unless `asNew`.
std::uint64_t replayEvents(const ReplayFilter& filter, const ReplayOptions& options = {});

}  // namespace pillion
