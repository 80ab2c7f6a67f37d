#include "inbox/dead_letters.hpp"

#include <algorithm>
#include <pillion/error.hpp>
#include <pillion/event.hpp>
#include <utility>

#include "amqp/topology.hpp"
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

/// The original with the reason beside it. What was written on its way is left behind: it is
/// written anew. Every event keeps all its headers; of a message that has more than an event may
/// have those are left out that could not be sent again, since it must not come back for ever.
amqp::Message deadLetter(const amqp::Delivery& delivery, const DeadLetterReason& reason,
                         const std::string& queue) {
  amqp::Message copy = delivery.message;
  std::size_t total = 0;
  std::erase_if(copy.headers, [&](const auto& header) {
    if (amqp::isOfTheWay(header.first)) return true;
    const std::size_t size = amqp::sizeOf(header);
    if (total + size > amqp::kMostHeaders) return true;
    total += size;
    return false;
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
  // An idle connection has kept no heartbeats, so the broker may have dropped it. Not one that is
  // blocked: from that the broker expects none, and each new one would add to what it has to read
  // when it reads again.
  const auto now = base::systemClock().boot();
  if (connection_ && !blocked_ && now - lastUse_ > options_.heartbeat) connection_.reset();
  if (!connection_) {
    blocked_ = false;
    auto fresh = std::make_unique<amqp::Connection>(options_, "dead letters");
    fresh->selectConfirms("");
    connection_ = std::move(fresh);
  }
  return *connection_;
}

void DeadLetters::send(const amqp::Delivery& delivery, const DeadLetterReason& reason) {
  try {
    const auto copy = deadLetter(delivery, reason, queue_);
    if (!publish(copy)) {
      declareQueue();
      if (!publish(copy)) {
        throw BrokerError("the dead-letter queue '" + queue_ +
                          "' takes no message; does it exist?");
      }
    }
    lastUse_ = base::systemClock().boot();
  } catch (const amqp::PublishersBlocked&) {
    blocked_ = true;
    throw;
  } catch (const Error&) {
    connection_.reset();
    throw;
  }
}

bool DeadLetters::publish(const amqp::Message& copy) {
  amqp::Connection& broker = connection();
  while (blocked_) {
    const auto incoming = broker.receive(std::chrono::milliseconds(0));
    if (!incoming) throw amqp::PublishersBlocked("RabbitMQ still blocks publishers");
    if (const auto* blocked = std::get_if<amqp::Blocked>(&*incoming)) blocked_ = blocked->now;
  }
  return amqp::publishAndWait(broker, copy, options_.stallTimeout);
}

/// Somebody has deleted it since the consumer connected.
void DeadLetters::declareQueue() {
  if (!options_.declareTopology) return;
  amqp::Connection broker(options_, "dead letters");
  amqp::declareDeadLetterQueue(broker, queue_);
  broker.close();
}

}  // namespace pillion::inbox
