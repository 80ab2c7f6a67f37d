#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/backoff.hpp"
#include "base/clock.hpp"
#include "outbox/reason.hpp"

namespace pillion::relay {

/// The event types that cannot be published for now, as far as the relay knows. While a type is
/// here, its new events are parked unsent: so a full queue costs its neighbours one copy per probe
/// and no more, and nothing overtakes the parked ones. One parked event probes whether that has
/// changed, after growing pauses; when it gets through, the type is *open*: the others follow,
/// oldest first, few at a time until it has proven that it takes many, and when none is left it is
/// healthy, and not here any more. No I/O.
class SickTypes {
 public:
  using Boot = base::Clock::Boot;
  using Milliseconds = std::chrono::milliseconds;

  SickTypes(Milliseconds first, Milliseconds most, base::Random& random = base::systemRandom())
      : first_(first), most_(most), random_(&random) {}

  [[nodiscard]] bool contains(const std::string& type) const { return types_.contains(type); }
  [[nodiscard]] bool empty() const { return types_.empty(); }
  [[nodiscard]] bool isOpen(const std::string& type) const;
  /// Why new events of it are parked. Needs contains(type).
  [[nodiscard]] outbox::Reason reasonOf(const std::string& type) const;

  /// An event of the type has failed (or is known to be parked): it is sick from now on, or again.
  /// True when that is news. What only may be its fault is tried at once.
  bool add(const std::string& type, outbox::Reason reason, Boot now);

  /// Another event of the type is parked. A probe that finds none does not mean it.
  void parked(const std::string& type);

  /// The type that is to be probed next. None of which something is in flight: that tells, too, and
  /// the oldest that is parked may be it.
  [[nodiscard]] const std::string* due(Boot now) const;
  [[nodiscard]] std::optional<Boot> nextDue() const;
  void probing(const std::string& type);
  /// The probe got through.
  void open(const std::string& type);
  /// While it is open: may one more of it be in flight? As many as were routed since, and one.
  [[nodiscard]] bool roomFor(const std::string& type) const;
  void sent(const std::string& type);
  /// What was sent has come through, or has not.
  void ended(const std::string& type, bool routed);
  /// It said nothing of the type (it had expired, or the channel was lost): another one soon.
  void inconclusive(const std::string& type, Boot now);
  /// There was none to probe with. True when it is healthy: none was parked since it was asked.
  bool foundNone(const std::string& type, Boot now);
  void healthy(const std::string& type, Boot now);
  /// It was sick until a moment ago. If it fails on a channel that it failed on before, that
  /// channel may have kept something of it.
  [[nodiscard]] bool recoveredLately(const std::string& type, Boot now) const;

  [[nodiscard]] bool anyOpen() const;
  /// Those that are open, and those that are not.
  [[nodiscard]] std::vector<std::string> open() const;
  [[nodiscard]] std::set<std::string> closed() const;

 private:
  enum class State { Waiting, Probing, Open };
  struct Type {
    outbox::Reason reason;
    base::Backoff backoff;
    State state = State::Waiting;
    Boot next{0};
    std::size_t inFlight = 0;
    std::size_t routed = 0;  // since it is open
    bool parkedSinceProbe = false;
  };

  Milliseconds first_;
  Milliseconds most_;
  base::Random* random_;
  std::map<std::string, Type> types_;
  std::map<std::string, Boot> recovered_;  // lately
};

}  // namespace pillion::relay
