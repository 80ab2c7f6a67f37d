#include "amqp/dead_letter.hpp"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "amqp/names.hpp"
#include "base/clock.hpp"
#include "event/timestamp.hpp"

namespace pillion::amqp {
namespace {

constexpr std::size_t kErrorBytes = 1'000;
constexpr const char* kReason = "pillion-dead-reason";
constexpr const char* kError = "pillion-dead-error";
constexpr const char* kAttempts = "pillion-dead-attempts";
constexpr const char* kFirstAt = "pillion-dead-first-at";
constexpr const char* kLastAt = "pillion-dead-at";
constexpr const char* kExchange = "pillion-dead-exchange";
constexpr const char* kRoutingKey = "pillion-dead-routing-key";
constexpr const char* kQueue = "pillion-dead-queue";
constexpr const char* kOriginalExchange = "pillion-original-exchange";
constexpr const char* kOriginalRoutingKey = "pillion-original-routing-key";
constexpr const char* kBrokersWord = "x-death";

/// Cuts at a character, not inside one.
std::string shortened(std::string text, std::size_t limit) {
  if (text.size() <= limit) return text;
  while (limit > 0 && (static_cast<unsigned char>(text[limit]) & 0xC0U) == 0x80) --limit;
  text.resize(limit);
  return text;
}

std::string headerOf(const Message& message, const char* name, const std::string& otherwise = "") {
  const std::string* value = findHeader(message, name);
  return value != nullptr ? *value : otherwise;
}

std::string firstNotEmpty(std::string a, std::string b) {
  return a.empty() ? std::move(b) : std::move(a);
}

void dropHeadersOfTheWay(Message& message) {
  std::erase_if(message.headers, [](const auto& header) { return isOfTheWay(header.first); });
}

void dropWhatIsTooMuch(Message& message) {
  std::size_t total = 0;
  std::erase_if(message.headers, [&](const auto& header) {
    const std::size_t size = sizeOf(header);
    if (total + size > kMostHeaders) return true;
    total += size;
    return false;
  });
}

/// What the broker says of a message that it moved itself, the latest first.
struct BrokersWord {
  std::string reason;
  std::string queue;
  std::string exchange;
  std::string routingKey;
};

std::optional<BrokersWord> brokersWord(const Message& message) {
  using nlohmann::json;
  const std::string* header = findHeader(message, kBrokersWord);
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

void tellByBroker(DeadLetter& letter, const Message& message, const BrokersWord& word) {
  letter.reason = word.reason;
  // Once redriven, it came from the queue's own name; where it was published first is told.
  letter.exchange = headerOf(message, kOriginalExchange, word.exchange);
  letter.routingKey = headerOf(message, kOriginalRoutingKey, word.routingKey);
  letter.queue = word.queue;
}

void tellByHeaders(DeadLetter& letter, const Message& message) {
  letter.reason = headerOf(message, kReason);
  letter.error = headerOf(message, kError);
  const std::string attempts = headerOf(message, kAttempts);
  std::from_chars(attempts.data(), attempts.data() + attempts.size(), letter.attempts);
  letter.lastAt = headerOf(message, kLastAt);
  letter.firstAt = headerOf(message, kFirstAt, letter.lastAt);
  letter.exchange = headerOf(message, kExchange);
  letter.routingKey = headerOf(message, kRoutingKey, message.type);
  letter.queue = headerOf(message, kQueue);
}

/// Where it was published first, which one that was redriven carries. Nobody else's word counts.
std::string originOf(const Delivery& delivery, const char* header, const std::string& otherwise) {
  return isRedriven(delivery) ? headerOf(delivery.message, header, otherwise) : otherwise;
}

/// As the consumer has read it, and as its log names it.
void tellByIdentity(DeadLetter& letter, const Message& message) {
  const auto read = identityOf(message);
  const auto* identity = std::get_if<Identity>(&read);
  if (identity == nullptr) return;
  letter.id = identity->id;
  letter.source = identity->source;
  letter.key = identity->key;
  // The routing key, which stands in for a type, is the dead-letter queue's here.
  letter.type = identity->type == message.routingKey ? "" : identity->type;
}

}  // namespace

Message deadLetter(const Delivery& delivery, const Death& death, const std::string& deadQueue) {
  Message copy = delivery.message;
  dropHeadersOfTheWay(copy);
  dropWhatIsTooMuch(copy);
  const auto add = [&](const char* name, std::string value) {
    copy.headers.emplace_back(name, std::move(value));
  };
  const std::string now = toRfc3339(base::systemClock().wall());
  add(kReason, death.reason);
  add(kError, shortened(death.error, kErrorBytes));
  add(kAttempts, std::to_string(death.attempts));
  add(kFirstAt, firstNotEmpty(death.firstAt, now));
  add(kLastAt, firstNotEmpty(death.lastAt, now));
  // One that was redriven came from the queue's own name; where it was published first is told.
  add(kExchange, originOf(delivery, kOriginalExchange, delivery.exchange));
  add(kRoutingKey, originOf(delivery, kOriginalRoutingKey, delivery.message.routingKey));
  add(kQueue, delivery.queue);
  copy.routingKey = deadQueue;
  return copy;
}

DeadLetter letterOf(const Delivery& delivery, const std::string& queue) {
  const Message& message = delivery.message;
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

Message redriven(const DeadLetter& letter, Message message, bool outsideWindow) {
  dropHeadersOfTheWay(message);
  message.headers.emplace_back(kOriginalExchange, letter.exchange);
  message.headers.emplace_back(kOriginalRoutingKey, letter.routingKey);
  if (outsideWindow) message.headers.emplace_back("pillion-outside-window", "apply");
  message.type = letter.type;
  return message;
}

Message renewed(const DeadLetter& letter, Message message, const std::string& deadQueue) {
  dropHeadersOfTheWay(message);
  dropWhatIsTooMuch(message);
  const auto add = [&](const char* name, const std::string& value) {
    if (!value.empty()) message.headers.emplace_back(name, value);
  };
  add(kReason, letter.reason);
  add(kError, letter.error);
  add(kAttempts, std::to_string(letter.attempts));
  add(kFirstAt, letter.firstAt);
  add(kLastAt, letter.lastAt);
  add(kExchange, letter.exchange);
  add(kRoutingKey, letter.routingKey);
  add(kQueue, letter.queue);
  message.routingKey = deadQueue;
  return message;
}

bool isWhole(const Message& letter) {
  return findHeader(letter, kBodyMissingHeader) == nullptr ||
         findHeader(letter, kBrokersWord) == nullptr;
}

std::uint64_t timesReturned(const Message& letter) {
  const std::string text = headerOf(letter, "x-delivery-count");
  std::uint64_t times = 0;
  std::from_chars(text.data(), text.data() + text.size(), times);
  return times;
}

}  // namespace pillion::amqp
