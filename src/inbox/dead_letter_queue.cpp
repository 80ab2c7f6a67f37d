#include <pillion/dead_letters.hpp>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <pillion/error.hpp>

#include "amqp/broker_check.hpp"
#include "amqp/connection.hpp"
#include "base/clock.hpp"
#include "base/failpoint.hpp"
#include "base/log_line.hpp"
#include "event/event_id.hpp"
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

/// What the broker says of a message that it moved itself, in `x-death`, the latest first.
/// Consumers take that header off, so a letter that has it is the broker's doing, and what its
/// other headers say is what the sender wrote.
struct BrokersWord {
  std::string reason;
  std::string queue;
  std::string exchange;
  std::string routingKey;
};

std::optional<BrokersWord> brokersWord(const amqp::Message& message) {
  using nlohmann::json;
  const std::string* header = amqp::findHeader(message, "x-death");
  if (header == nullptr) return std::nullopt;
  BrokersWord word;
  const json deaths = json::parse(*header, nullptr, /*allow_exceptions=*/false);
  if (!deaths.is_array() || deaths.empty() || !deaths[0].is_object()) return word;
  const auto text = [&](const char* name) {
    const auto found = deaths[0].find(name);
    return found != deaths[0].end() && found->is_string() ? found->get<std::string>() : "";
  };
  word.reason = text("reason");
  std::ranges::replace(word.reason, '_', '-');
  word.queue = text("queue");
  word.exchange = text("exchange");
  const auto keys = deaths[0].find("routing-keys");
  if (keys != deaths[0].end() && keys->is_array() && !keys->empty() && (*keys)[0].is_string()) {
    word.routingKey = (*keys)[0];
  }
  return word;
}

/// A letter goes back to the consumer that it comes from, whatever its headers say: to the queue or
/// to one of its partitions.
bool isOneOf(const std::string& queue, const std::string& name) {
  if (name == queue) return true;
  if (!name.starts_with(queue + ".p")) return false;
  const std::string number = name.substr(queue.size() + 2);
  return !number.empty() && number.size() <= 2 &&
         number.find_first_not_of("0123456789") == std::string::npos;
}

void tellByBroker(DeadLetter& letter, const amqp::Message& message, const BrokersWord& word) {
  letter.reason = word.reason;
  // Once redriven, it came from the queue's own name; where it was published first is told.
  letter.exchange = headerOf(message, "pillion-original-exchange", word.exchange);
  letter.routingKey = headerOf(message, "pillion-original-routing-key", word.routingKey);
  letter.queue = word.queue;
}

void tellByHeaders(DeadLetter& letter, const amqp::Message& message) {
  letter.reason = headerOf(message, "pillion-dead-reason");
  letter.error = headerOf(message, "pillion-dead-error");
  const std::string attempts = headerOf(message, "pillion-dead-attempts");
  std::from_chars(attempts.data(), attempts.data() + attempts.size(), letter.attempts);
  letter.lastAt = headerOf(message, "pillion-dead-at");
  letter.firstAt = headerOf(message, "pillion-dead-first-at", letter.lastAt);
  letter.exchange = headerOf(message, "pillion-dead-exchange");
  letter.routingKey = headerOf(message, "pillion-dead-routing-key", message.type);
  letter.queue = headerOf(message, "pillion-dead-queue");
}

/// As the consumer has read it, and as its log names it.
void tellByIdentity(DeadLetter& letter, const amqp::Message& message) {
  const auto read = amqp::identityOf(message);
  const auto* identity = std::get_if<amqp::Identity>(&read);
  if (identity == nullptr) return;
  letter.id = identity->id;
  letter.source = identity->source;
  letter.key = identity->key;
  // The routing key, which stands in for a type, is the dead-letter queue's here.
  letter.type = identity->type == message.routingKey ? "" : identity->type;
}

DeadLetter letterOf(const amqp::Delivery& delivery, const std::string& queue) {
  const amqp::Message& message = delivery.message;
  DeadLetter letter;
  letter.id = firstNotEmpty(message.messageId, headerOf(message, "cloudEvents_id"));
  letter.source = firstNotEmpty(message.appId, headerOf(message, "cloudEvents_source"));
  letter.key = headerOf(message, "cloudEvents_partitionkey");
  if (const auto word = brokersWord(message)) {
    tellByBroker(letter, message, *word);
  } else {
    tellByHeaders(letter, message);
  }
  if (!isOneOf(queue, letter.queue)) letter.queue = queue;
  letter.type = firstNotEmpty(message.type, headerOf(message, "cloudEvents_type"));
  tellByIdentity(letter, message);
  letter.type = firstNotEmpty(letter.type, letter.routingKey);
  letter.contentType = message.contentType;
  letter.contentEncoding = message.contentEncoding;
  letter.headers = message.headers;
  letter.body = message.body;
  return letter;
}

/// Since the last failure, or since it was made when that is not known.
std::optional<std::chrono::seconds> ageOf(const DeadLetter& letter, const amqp::Message& message) {
  auto at = fromRfc3339(letter.lastAt);
  if (!at) at = amqp::timeOfTimestamp(message.timestamp);
  if (!at) return std::nullopt;
  return std::chrono::duration_cast<std::chrono::seconds>(base::systemClock().wall() - *at);
}

bool matches(const DeadLetterFilter& filter, const DeadLetter& letter,
             const amqp::Message& message) {
  if (!filter.id.empty() && uuidFrom(filter.id).value_or(filter.id) != letter.id) return false;
  if (!filter.reason.empty() && filter.reason != letter.reason) return false;
  if (!filter.type.empty() && !matchesTopic(filter.type, letter.type)) return false;
  if (!filter.olderThan && !filter.newerThan) return true;
  const auto age = ageOf(letter, message);
  if (!age) return false;
  return (!filter.olderThan || *age > *filter.olderThan) &&
         (!filter.newerThan || *age < *filter.newerThan);
}

/// What was written on its way comes off; where it was published first stays known.
amqp::Message redriven(const DeadLetter& letter, amqp::Message message, bool outsideWindow) {
  std::erase_if(message.headers, [](const auto& header) { return amqp::isOfTheWay(header.first); });
  message.headers.emplace_back("pillion-original-exchange", letter.exchange);
  message.headers.emplace_back("pillion-original-routing-key", letter.routingKey);
  if (outsideWindow) message.headers.emplace_back("pillion-outside-window", "apply");
  message.type = letter.type;
  message.routingKey = letter.queue;
  return message;
}

/// What was not acked goes back to its place. The queue does that in its own time, and whoever
/// looks next is to see them: so it is waited for, a little.
void putBack(amqp::Connection& connection, const std::string& queue, std::uint64_t consumer,
             std::uint64_t expected) {
  connection.endConsumer(consumer);
  const auto end = base::systemClock().boot() + kNothingMore;
  while (base::systemClock().boot() < end) {
    const auto ready = connection.messageCount(queue);
    if (!ready || *ready >= expected) return;
    connection.receive(milliseconds(20));
  }
}

enum class Fate { Stays, Removed, NotMeant };
using Act = std::function<Fate(const DeadLetter&, const amqp::Delivery&)>;

/// Takes every letter of the queue once. `act` is called for those that are chosen, and says what
/// becomes of them.
DeadLetterCount walk(const DeadLetterOptions& options, const DeadLetterFilter& filter,
                     const Act& act) {
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
  std::uint64_t consumer = 0;
  if (*held > 0) consumer = connection.consume(queue, /*prefetch=*/0);
  while (count.seen < *held && (filter.limit == 0 || count.chosen < filter.limit)) {
    const auto incoming = connection.receive(kNothingMore);
    if (!incoming) break;
    const auto* delivery = std::get_if<amqp::Delivery>(&*incoming);
    if (delivery == nullptr) continue;
    ++count.seen;
    const DeadLetter letter = letterOf(*delivery, options.queue);
    if (!matches(filter, letter, delivery->message)) continue;
    const Fate fate = act(letter, *delivery);
    if (fate == Fate::NotMeant) continue;
    if (fate == Fate::Removed) {
      connection.ack(*delivery);
      ++removed;
    }
    ++count.chosen;
  }
  if (filter.limit > 0 && count.chosen == filter.limit) count.held = count.seen;
  if (*held > 0) putBack(connection, queue, consumer, *held - removed);
  connection.close();
  return count;
}

}  // namespace

DeadLetterCount visitDeadLetters(const DeadLetterOptions& options, const DeadLetterFilter& filter,
                                 const std::function<void(const DeadLetter&)>& visit) {
  return walk(options, filter, [&](const DeadLetter& letter, const amqp::Delivery&) {
    visit(letter);
    return Fate::Stays;
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
    if (amqp::findHeader(delivery.message, amqp::kBodyMissingHeader) != nullptr) {
      base::log.warn(
          "dead letter '{}' stays where it is: its data is larger than an event's may be",
          letter.id);
      return Fate::NotMeant;
    }
    if (options.dryRun) return Fate::Stays;
    const auto copy = redriven(letter, delivery.message, options.outsideWindow);
    if (!amqp::publishAndWait(*publisher, copy, options.broker.stallTimeout)) {
      throw ConfigError("queue '" + letter.queue +
                        "' takes no message, does it exist? Dead letter " + letter.id +
                        " stays where it is");
    }
    PILLION_FAILPOINT("dead.redriven");
    return Fate::Removed;
  });
}

DeadLetterCount discardDeadLetters(const DeadLetterOptions& options,
                                   const DeadLetterFilter& filter) {
  return walk(options, filter, [&](const DeadLetter&, const amqp::Delivery&) {
    return options.dryRun ? Fate::Stays : Fate::Removed;
  });
}

}  // namespace pillion
