/// Dead letters: look at what a consumer could not apply, send it to that consumer again, or throw
/// it away. `pillion dead` is these functions on the command line.
///
/// RabbitMQ has no way of looking into a queue but to take messages and give them back, which it
/// counts; and a policy may let it drop what was given back too often. So these functions take what
/// the queue holds when they begin, one by one. What is not chosen goes back to its place when they
/// end; but from the first letter on that was given back before, each is put to the end of the
/// queue as a new message, in the same order, before the old one is removed. A crash in between
/// leaves both. While one of these functions runs, another sees an empty queue. Any thread; each
/// call has connections of its own.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <pillion/options.hpp>
#include <string>
#include <utility>
#include <vector>

namespace pillion {

struct DeadLetter {
  std::string id;
  std::string type;
  std::string source;
  std::string key;
  /// `rejected`, `handler-failed`, `no-handler`, `invalid-event`, `outside-dedupe-window`;
  /// `delivery-limit` when the broker itself moved it.
  std::string reason;
  std::string error;  ///< what was thrown at last, one line
  int attempts = 0;
  std::string firstAt;   ///< of the first failure; RFC 3339, empty when not known
  std::string lastAt;    ///< of the last one
  std::string exchange;  ///< it was published to first
  std::string routingKey;
  /// It was consumed from: the consumer's own, or one of its partitions.
  std::string queue;
  std::string contentType;
  std::string contentEncoding;  ///< of the body, which is as it was delivered
  std::vector<std::pair<std::string, std::string>> headers;  ///< all, as they are in the queue
  std::string body;
};

/// Which letters are meant; every field that is set must hold. None set: all.
struct DeadLetterFilter {
  std::string id = "";
  std::string type = "";  ///< a topic pattern: `*` one word, `#` any number of words
  std::string reason = "";
  std::optional<std::chrono::seconds> olderThan = {};  ///< counted from the last failure
  std::optional<std::chrono::seconds> newerThan = {};
  std::uint64_t limit = 0;  ///< the oldest so many; 0: no limit

  [[nodiscard]] bool restricts() const {
    return !id.empty() || !type.empty() || !reason.empty() || olderThan || newerThan || limit > 0;
  }
};

struct DeadLetterOptions {
  BrokerOptions broker = {};
  /// The consumer's queue, `<service>.<subscription>`; its dead letters are in `<queue>.dead`.
  std::string queue = "";
  /// Choose and count, change nothing.
  bool dryRun = false;
  /// Redriven events are applied even when they have left the consumer's dedupe window. Only for
  /// events that you know were not applied: nothing else can tell.
  bool outsideWindow = false;
};

struct DeadLetterCount {
  std::uint64_t chosen = 0;  ///< and redriven or discarded, unless it was a dry run
  /// Chosen as well, and not redriven, since no queue takes them: named in the log.
  std::uint64_t refused = 0;
  std::uint64_t seen = 0;
  std::uint64_t held = 0;  ///< in the queue at the beginning; more than `seen`: others take from it
};

/// Calls `visit` for each letter that is chosen, oldest first. All stay in the queue.
/// Throws ConfigError (no such queue, refused login) or BrokerError.
DeadLetterCount visitDeadLetters(const DeadLetterOptions& options, const DeadLetterFilter& filter,
                                 const std::function<void(const DeadLetter&)>& visit);

/// Sends the chosen letters to the consumer they came from, and to no other service: to its queue,
/// or to its partitions when it has some today. Confirmed by the broker before the letter is
/// removed: a crash between the two leaves the letter, which can be redriven again, and the inbox
/// applies it once.
///
/// What the broker refuses stays where it is, as does a letter whose data was too large for an
/// event (header `pillion-body-missing`), and the next is tried. The event has lost its place among
/// those of its key. Throws as above; ConfigError also when the consumer has both a queue and
/// partitions, and consumes from neither.
DeadLetterCount redriveDeadLetters(const DeadLetterOptions& options,
                                   const DeadLetterFilter& filter);

/// Removes the chosen letters for good. Throws as above.
DeadLetterCount discardDeadLetters(const DeadLetterOptions& options,
                                   const DeadLetterFilter& filter);

}  // namespace pillion
