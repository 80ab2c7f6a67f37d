#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <set>

#include "base/clock.hpp"
#include "outbox/event_log.hpp"

namespace pillion::relay {

/// Finds the event over which relays end. Lanes whose relays ended again and again without getting
/// any further are *endangered*. The relay that takes them handles one event at a time, and notes
/// it before it does anything with it, until it is past what the others may have had in memory. An
/// event that relays had noted when they ended, and that none has handled to its end since, is a
/// suspect, of which no relay makes another attempt.
class Suspicion {
 public:
  using Boot = base::Clock::Boot;

  /// `danger`: so many events a relay has in memory at most.
  Suspicion(outbox::EventLog& log, std::size_t danger, const base::Clock& clock)
      : log_(log), danger_(danger), clock_(clock) {}

  /// What was learnt with lanes that were taken over.
  void learn(const outbox::Balance& balance);
  void dropLanes(outbox::Lanes lanes);

  /// Are there endangered lanes?
  [[nodiscard]] bool alert() const { return endangered_ != 0; }
  [[nodiscard]] bool isSuspect(std::int64_t id) const { return suspects_.contains(id); }

  /// May this event be handled now: is it the only one?
  [[nodiscard]] bool mayHandle(std::int64_t id) const {
    return !alert() || !inHand_ || *inHand_ == id;
  }
  [[nodiscard]] bool handsFree() const { return !alert() || !inHand_; }
  /// It is handled from now on, until it is settled. Does nothing while another one is.
  void handle(std::int64_t id);
  /// It was handled to its end, and nobody has ended over it.
  void settled(std::int64_t id);
  /// It has to wait for others: a relay that ends meanwhile is not its fault.
  void putDown(std::int64_t id);
  /// The same for one of which the broker says nothing for long.
  void putDownOld();

  /// Nothing of the endangered lanes is left that could be handled.
  void caughtUp();
  /// Is there progress to be written at once, before anything else may end this relay?
  [[nodiscard]] bool mustWrite() const { return mustWrite_; }
  void written() { mustWrite_ = false; }

 private:
  void forgetNote();
  void endAlert();

  outbox::EventLog& log_;
  std::size_t danger_;
  const base::Clock& clock_;
  outbox::Lanes endangered_ = 0;
  std::size_t left_ = 0;  // so many events until the danger is past
  std::set<std::int64_t> suspects_;
  std::optional<std::int64_t> inHand_;
  std::optional<Boot> notedAt_;  // it is noted, too
  bool first_ = false;           // the first event of this alert is not settled yet
  bool mustWrite_ = false;
  int crashes_ = 0;
  bool said_ = false;
};

}  // namespace pillion::relay
