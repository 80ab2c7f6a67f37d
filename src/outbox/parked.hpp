#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "event/row.hpp"
#include "outbox/cursor.hpp"
#include "outbox/reason.hpp"

// The parked events as the relay sees them: what it writes about them, and what it reads.

namespace pillion::outbox {

/// From the log to the parked ones.
struct Park {
  std::int64_t id = 0;  // outbox id
  Reason reason = Reason::Held;
  int attempts = 0;    // how often it was sent
  bool holds = false;  // later events of its key wait behind it
};

/// Still parked, for this reason now.
struct Retried {
  std::int64_t seq = 0;
  Reason reason = Reason::Held;
  bool holds = false;
  int attempts = 1;  // that were made since it was written last
};

/// What a checkpoint writes about the parked events.
struct ParkedChanges {
  std::vector<Park> park;
  std::vector<Retried> retried;
  std::vector<std::int64_t> settled;  // seq of those that are published, dropped or expired

  [[nodiscard]] bool empty() const { return park.empty() && retried.empty() && settled.empty(); }
};

/// What is parked of some lanes, when they are taken over.
struct ParkedSummary {
  struct Type {
    std::string name;
    Reason reason = Reason::Unroutable;
  };
  struct Key {
    std::string key;
    int lane = 0;
    std::int64_t firstId = 0;
    std::size_t events = 0;  // that hold it
  };
  std::vector<Type> types;  // that are sick
  std::vector<Key> keys;    // that are held
  bool anyRefused = false;
  /// Outbox ids of those that the cursor has not passed: they will be read from the log once more.
  std::vector<std::int64_t> ahead;
};

/// Which parked events to read.
struct ParkedQuestion {
  enum class Kind {
    Probe,    // the oldest one of a sick type
    Refused,  // the next one that the broker refused
    Pass,     // in the order in which they were parked, those that nothing keeps
    Heads,    // of some keys: what is the first event that holds them?
  };
  Kind kind = Kind::Pass;
  Lanes lanes = 0;
  std::int64_t after = 0;          // seq, but for Heads
  std::string type;                // for Probe
  std::vector<std::string> names;  // Pass: sick types, which are left alone; Heads: keys
};

struct ParkedRow {
  std::int64_t seq = 0;
  Reason reason = Reason::Held;
  bool holds = false;
  Row row;
};

struct ParkedAnswer {
  std::vector<ParkedRow> rows;
  std::int64_t first = 0;  // Pass: lower than any seq that there is
  std::int64_t upTo = 0;   // Pass: seq up to which all was looked at
  bool end = false;        // Pass: there was nothing behind that
  /// Heads: the first event of each key that is still held.
  struct Head {
    std::int64_t seq = 0;
    Reason reason = Reason::Held;
    std::string type;
  };
  std::map<std::string, Head> heads;
};

/// Reads the parked events beside the relay's turn, which must not wait for it. What the turn's
/// checkpoints had written before a question is in the answer. One thread asks.
class ParkedFeed {
 public:
  virtual ~ParkedFeed() = default;
  /// Not while another question is open.
  virtual void ask(ParkedQuestion question) = 0;
  /// The answer, when it is there. Never waits, and never throws: while the database is away there
  /// is no answer.
  virtual std::optional<ParkedAnswer> answer() = 0;
};

}  // namespace pillion::outbox
