#pragma once

#include <cstdint>
#include <optional>
#include <set>

#include "outbox/event_log.hpp"

namespace pillion::relay {

/// Finds the event over which relays end. Lanes whose relays ended again and again without getting
/// any further are *endangered*: until their cursor has moved, the relay that holds them handles
/// their events, and all others, one by one, and notes each before it does. What two of them had
/// noted when they ended all the same is a suspect, of which no relay makes another attempt.
class Suspicion {
 public:
  explicit Suspicion(outbox::EventLog& log) : log_(log) {}

  /// What was learnt with lanes that were taken over.
  void learn(const outbox::Balance& balance);
  void dropLanes(outbox::Lanes lanes) { endangered_.take(lanes); }

  /// Are there endangered lanes?
  [[nodiscard]] bool alert() const { return !endangered_.positions.empty(); }
  [[nodiscard]] bool isSuspect(std::int64_t id) const { return suspects_.contains(id); }

  /// This event is handled next; nothing: none is. Writes it while alert.
  void note(std::optional<std::int64_t> id);
  /// Lanes that got further are not endangered any more.
  void moved(const outbox::Cursor& confirmed);

 private:
  outbox::EventLog& log_;
  outbox::Cursor endangered_;  // where the lanes were when they were taken
  std::set<std::int64_t> suspects_;
  std::optional<std::int64_t> noted_;
};

}  // namespace pillion::relay
