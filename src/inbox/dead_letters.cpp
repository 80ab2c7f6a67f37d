#include "inbox/dead_letters.hpp"

#include <algorithm>
#include <pillion/error.hpp>
#include <pillion/event.hpp>
#include <utility>

#include "event/event_check.hpp"
#include "event/timestamp.hpp"

namespace pillion::inbox {
namespace {

constexpr std::size_t kErrorBytes = 1'000;

/// Cuts at a character, not inside one.
std::string shortened(std::string text, std::size_t limit) {
  if (text.size() <= limit) return text;
  while (limit > 0 && (static_cast<unsigned char>(text[limit]) & 0xC0U) == 0x80) --limit;
  text.resize(limit);
  return text;
}

/// The original with the reason beside it. Headers of the broker's own making are left behind: it
/// writes them anew. A header table too large to be sent again is cut, since the message must not
/// come back for ever.
amqp::Message deadLetter(const amqp::Delivery& delivery, const DeadLetterReason& reason,
                         const std::string& queue) {
  amqp::Message copy = delivery.message;
  std::size_t total = 0;
  std::erase_if(copy.headers, [&](const auto& header) {
    if (header.first.starts_with("x-") || header.first.starts_with("pillion-dead-") ||
        header.first.starts_with("pillion-original-") || header.first == "pillion-outside-window") {
      return true;
    }
    total += header.first.size() + header.second.size() + kHeaderOverhead;
    return total > EventLimits::kHeaders;
  });
  const auto add = [&](const char* name, std::string value) {
    copy.headers.emplace_back(name, std::move(value));
  };
  add("pillion-dead-reason", reason.reason);
  add("pillion-dead-error", shortened(reason.error, kErrorBytes));
  add("pillion-dead-attempts", std::to_string(reason.attempts));
  const std::string now = toRfc3339(base::systemClock().wall());
  add("pillion-dead-first-at", reason.firstFailedAt.empty() ? now : reason.firstFailedAt);
  add("pillion-dead-at", reason.lastFailedAt.empty() ? now : reason.lastFailedAt);
  // One that was redriven came from the queue's own name; where it was published first is told.
  const auto origin = [&](const char* header, const std::string& otherwise) {
    const std::string* first = amqp::findHeader(delivery.message, header);
    return first != nullptr ? *first : otherwise;
  };
  add("pillion-dead-exchange", origin("pillion-original-exchange", delivery.exchange));
  add("pillion-dead-routing-key",
      origin("pillion-original-routing-key", delivery.message.routingKey));
  add("pillion-dead-queue", delivery.queue);
  copy.routingKey = queue;
  return copy;
}

}  // namespace

DeadLetters::DeadLetters(const BrokerOptions& options, std::string queue)
    : options_(options), queue_(std::move(queue)) {}

amqp::Connection& DeadLetters::connection() {
  // An idle connection has kept no heartbeats, so the broker may have dropped it.
  const auto now = base::systemClock().boot();
  if (connection_ && now - lastUse_ > options_.heartbeat) connection_.reset();
  if (!connection_) {
    auto fresh = std::make_unique<amqp::Connection>(options_, "dead letters");
    fresh->selectConfirms("");
    connection_ = std::move(fresh);
  }
  return *connection_;
}

void DeadLetters::send(const amqp::Delivery& delivery, const DeadLetterReason& reason) {
  try {
    const auto copy = deadLetter(delivery, reason, queue_);
    if (!amqp::publishAndWait(connection(), copy, options_.stallTimeout)) {
      throw BrokerError("the dead-letter queue '" + queue_ + "' takes no message; does it exist?");
    }
    lastUse_ = base::systemClock().boot();
  } catch (const Error&) {
    connection_.reset();
    throw;
  }
}

}  // namespace pillion::inbox
