#include <pillion/dead_letters.hpp>

#include <charconv>
#include <pillion/error.hpp>

#include "amqp/broker_check.hpp"
#include "amqp/connection.hpp"
#include "base/clock.hpp"
#include "base/failpoint.hpp"
#include "event/timestamp.hpp"
#include "event/topic_pattern.hpp"

namespace pillion {
namespace {

using std::chrono::milliseconds;

/// What the queue held at the beginning comes at once, or somebody else has it.
constexpr milliseconds kNothingMore{2'000};

std::string headerOf(const amqp::Message& message, const char* name,
                     const std::string& otherwise = "") {
  const std::string* value = amqp::findHeader(message, name);
  return value != nullptr ? *value : otherwise;
}

std::string firstNotEmpty(std::string a, std::string b) {
  return a.empty() ? std::move(b) : std::move(a);
}

/// The broker writes its reasons with an underscore.
std::string brokersReason(const amqp::Message& message) {
  std::string reason = headerOf(message, "x-first-death-reason");
  for (char& c : reason) c = c == '_' ? '-' : c;
  return reason;
}

DeadLetter letterOf(const amqp::Delivery& delivery, const std::string& queue) {
  const amqp::Message& message = delivery.message;
  DeadLetter letter;
  letter.id = message.messageId;
  letter.source = message.appId;
  letter.key = headerOf(message, "cloudEvents_partitionkey");
  letter.reason = headerOf(message, "pillion-dead-reason", brokersReason(message));
  letter.error = headerOf(message, "pillion-dead-error");
  const std::string attempts = headerOf(message, "pillion-dead-attempts");
  std::from_chars(attempts.data(), attempts.data() + attempts.size(), letter.attempts);
  letter.lastAt = headerOf(message, "pillion-dead-at");
  letter.firstAt = headerOf(message, "pillion-dead-first-at", letter.lastAt);
  letter.exchange =
      headerOf(message, "pillion-dead-exchange", headerOf(message, "x-first-death-exchange"));
  letter.routingKey = headerOf(message, "pillion-dead-routing-key", message.type);
  letter.type = firstNotEmpty(message.type, letter.routingKey);
  letter.queue = firstNotEmpty(headerOf(message, "pillion-dead-queue"),
                               headerOf(message, "x-first-death-queue", queue));
  letter.contentType = message.contentType;
  letter.headers = message.headers;
  letter.body = message.body;
  return letter;
}

/// Since the last failure, or since it was made when that is not known.
std::optional<std::chrono::seconds> ageOf(const DeadLetter& letter, const amqp::Message& message) {
  auto at = fromRfc3339(letter.lastAt);
  if (!at && message.timestamp == 0) return std::nullopt;
  if (!at) at = base::Clock::Wall(std::chrono::seconds(message.timestamp));
  return std::chrono::duration_cast<std::chrono::seconds>(base::systemClock().wall() - *at);
}

bool matches(const DeadLetterFilter& filter, const DeadLetter& letter,
             const amqp::Message& message) {
  if (!filter.id.empty() && filter.id != letter.id) return false;
  if (!filter.reason.empty() && filter.reason != letter.reason) return false;
  if (!filter.type.empty() && !matchesTopic(filter.type, letter.type)) return false;
  if (!filter.olderThan && !filter.newerThan) return true;
  const auto age = ageOf(letter, message);
  if (!age) return false;
  return (!filter.olderThan || *age > *filter.olderThan) &&
         (!filter.newerThan || *age < *filter.newerThan);
}

/// What is the broker's or ours comes off; where it was published first stays known.
amqp::Message redriven(const DeadLetter& letter, amqp::Message message, bool outsideWindow) {
  std::erase_if(message.headers, [](const auto& header) {
    return header.first.starts_with("x-") || header.first.starts_with("pillion-dead-") ||
           header.first.starts_with("pillion-original-") ||
           header.first == "pillion-outside-window";
  });
  message.headers.emplace_back("pillion-original-exchange", letter.exchange);
  message.headers.emplace_back("pillion-original-routing-key", letter.routingKey);
  if (outsideWindow) message.headers.emplace_back("pillion-outside-window", "apply");
  message.type = letter.type;
  message.routingKey = letter.queue;
  return message;
}

/// What was not acked goes back to its place. The queue does that in its own time, and whoever
/// looks next is to see them: so it is waited for, a little.
void putBack(amqp::Connection& connection, const std::string& queue, std::uint64_t expected) {
  connection.cancelConsumer(queue);
  connection.giveBack();
  const auto end = base::systemClock().boot() + kNothingMore;
  while (base::systemClock().boot() < end) {
    const auto ready = connection.messageCount(queue);
    if (!ready || *ready >= expected) return;
    connection.receive(milliseconds(20));
  }
}

/// Takes every letter of the queue once. `act` is called for those that are chosen, and says
/// whether the letter is to be removed.
DeadLetterCount walk(const DeadLetterOptions& options, const DeadLetterFilter& filter,
                     const std::function<bool(const DeadLetter&, const amqp::Delivery&)>& act) {
  amqp::requireValid(options.broker);
  if (options.queue.empty())
    throw ConfigError("dead letters need the name of the consumer's queue");
  const std::string queue = options.queue + ".dead";
  amqp::Connection connection(options.broker, "dead letters of " + options.queue);
  const auto held = connection.messageCount(queue);
  if (!held) throw ConfigError("queue '" + queue + "' does not exist; check service and vhost");
  DeadLetterCount count;
  count.held = *held;
  std::uint64_t removed = 0;
  if (*held > 0) connection.consume(queue, /*prefetch=*/0);
  while (count.seen < *held && (filter.limit == 0 || count.chosen < filter.limit)) {
    const auto incoming = connection.receive(kNothingMore);
    if (!incoming) break;
    const auto* delivery = std::get_if<amqp::Delivery>(&*incoming);
    if (delivery == nullptr) continue;
    ++count.seen;
    const DeadLetter letter = letterOf(*delivery, options.queue);
    if (!matches(filter, letter, delivery->message)) continue;
    if (act(letter, *delivery)) {
      connection.ack(delivery->tag);
      ++removed;
    }
    ++count.chosen;
  }
  if (filter.limit > 0 && count.chosen == filter.limit) count.held = count.seen;
  if (*held > 0) putBack(connection, queue, *held - removed);
  connection.close();
  return count;
}

}  // namespace

DeadLetterCount visitDeadLetters(const DeadLetterOptions& options, const DeadLetterFilter& filter,
                                 const std::function<void(const DeadLetter&)>& visit) {
  return walk(options, filter, [&](const DeadLetter& letter, const amqp::Delivery&) {
    visit(letter);
    return false;
  });
}

DeadLetterCount redriveDeadLetters(const DeadLetterOptions& options,
                                   const DeadLetterFilter& filter) {
  std::unique_ptr<amqp::Connection> publisher;
  if (!options.dryRun) {
    publisher = std::make_unique<amqp::Connection>(options.broker, "redrive");
    publisher->selectConfirms("");
  }
  return walk(options, filter, [&](const DeadLetter& letter, const amqp::Delivery& delivery) {
    if (options.dryRun) return false;
    const auto copy = redriven(letter, delivery.message, options.outsideWindow);
    if (!amqp::publishAndWait(*publisher, copy, options.broker.stallTimeout)) {
      throw ConfigError("queue '" + letter.queue +
                        "' takes no message, does it exist? Dead letter " + letter.id +
                        " stays where it is");
    }
    PILLION_FAILPOINT("dead.redriven");
    return true;
  });
}

DeadLetterCount discardDeadLetters(const DeadLetterOptions& options,
                                   const DeadLetterFilter& filter) {
  return walk(options, filter,
              [&](const DeadLetter&, const amqp::Delivery&) { return !options.dryRun; });
}

}  // namespace pillion
