#include "amqp/connection.hpp"

#include <algorithm>
#include <pillion/error.hpp>

#include "amqp/connection_parts.hpp"
#include "amqp/reply.hpp"
#include "base/clock.hpp"

namespace pillion::amqp {
namespace {

using std::chrono::milliseconds;

milliseconds since(base::Clock::Boot start) {
  return std::chrono::duration_cast<milliseconds>(base::systemClock().boot() - start);
}

}  // namespace

std::optional<Incoming> Connection::Parts::take(const amqp_frame_t& frame) {
  if (frame.channel == kFenceChannel) {
    takeOfFences(frame);
    return std::nullopt;
  }
  if (frame.channel == 0) return assembler.add(frame);
  if (consumers.owns(frame.channel)) return consumers.add(frame);
  auto incoming = roads.add(frame);
  const auto* closed = incoming ? std::get_if<ChannelClosed>(&*incoming) : nullptr;
  if (closed != nullptr && !handsOutCloses) {
    throw BrokerError("RabbitMQ closed the channel: " + closed->text, closed->replyCode);
  }
  return incoming;
}

Connection::Connection(const BrokerOptions& options, const std::string& role, base::WakeEvent* wake)
    : parts_(std::make_unique<Parts>(options, role, wake)) {}

Connection::~Connection() = default;

std::string Connection::where() const {
  return parts_->wire.where();
}

void Connection::close() noexcept {
  parts_->wire.close();
}

void Connection::selectConfirms(std::string exchange) {
  parts_->roads.selectConfirms(std::move(exchange));
}

void Connection::openRoads(std::string exchange) {
  parts_->roads.selectConfirms(std::move(exchange));
  parts_->handsOutCloses = true;
}

void Connection::reopen(Road road) {
  parts_->roads.reopen(road);
}

std::uint64_t Connection::publish(Road road, const Message& message) {
  return parts_->roads.publish(road, message);
}

void Connection::beginBurst() {
  parts_->wire.cork(true);
}
void Connection::endBurst() {
  parts_->wire.cork(false);
}

std::uint64_t Connection::consume(const std::string& queue, std::uint16_t prefetch) {
  return parts_->consumers.open(queue, prefetch);
}

void Connection::ack(std::uint64_t consumer, std::uint64_t tag, bool multiple) {
  parts_->consumers.ack(consumer, tag, multiple);
}

void Connection::cancelConsumer(std::uint64_t consumer) {
  parts_->consumers.cancel(consumer);
}

void Connection::endConsumer(std::uint64_t consumer) {
  parts_->consumers.end(consumer);
}

std::optional<Incoming> Connection::receive(std::chrono::microseconds wait) {
  Wire& wire = parts_->wire;
  const milliseconds slice = std::chrono::duration_cast<milliseconds>(wire.options().heartbeat) / 4;
  std::optional<base::Clock::Boot> until;  // most calls find a frame at once, and need no clock
  for (;;) {
    amqp_frame_t frame;
    while (wire.read(frame)) {
      auto incoming = parts_->take(frame);
      wire.release();
      if (incoming) return incoming;
    }
    if (wait.count() <= 0) return std::nullopt;
    const auto now = base::systemClock().boot();
    if (!until) until = now + wait;
    const std::chrono::nanoseconds left = *until - now;
    if (left.count() <= 0) return std::nullopt;
    if (wire.waitForInput(std::min<std::chrono::nanoseconds>(left, slice))) return std::nullopt;
  }
}

bool publishAndWait(Connection& connection, const Message& message, milliseconds limit) {
  const auto start = base::systemClock().boot();
  const std::uint64_t tag = connection.publish(message);
  bool returned = false;
  while (since(start) < limit) {
    const auto incoming = connection.receive(limit - since(start));
    if (!incoming) continue;
    if (const auto* blocked = std::get_if<Blocked>(&*incoming);
        blocked != nullptr && blocked->now) {
      throw PublishersBlocked("RabbitMQ blocks publishers (" + blocked->reason + ")");
    }
    if (const auto* back = std::get_if<Returned>(&*incoming)) {
      returned |= back->messageId == message.messageId;
    }
    const auto* confirm = std::get_if<Confirm>(&*incoming);
    if (confirm == nullptr || confirm->tag < tag) continue;
    return confirm->positive && !returned;
  }
  throw BrokerError("RabbitMQ gave no confirm within " + std::to_string(limit.count()) + " ms");
}

}  // namespace pillion::amqp
