// Connection's calls about fences: exclusive queues that say whose connection lives. Each has a
// consumer, though nobody sends it anything: a queue that is consumed from is in use, so that no
// policy lets it expire, and when it is deleted its consumer is told.

#include <pillion/error.hpp>
#include <utility>

#include "amqp/connection_parts.hpp"
#include "amqp/field_table.hpp"

namespace pillion::amqp {

/// False when another connection has it.
bool Connection::Parts::declareFence(const std::string& name) {
  if (!fenceChannelIsOpen) {
    wire.openChannel(kFenceChannel);
    fenceChannelIsOpen = true;
  }
  // Said, since a vhost may have another default, and no other type can be exclusive.
  std::vector<amqp_table_entry_t> entries{textEntry("x-queue-type", "classic")};
  try {
    call(
        "declaring queue '" + name + "'",
        [&] {
          amqp_queue_declare(get(), kFenceChannel, toBytes(name), /*passive=*/0, /*durable=*/0,
                             /*exclusive=*/1, /*auto_delete=*/0, tableOf(entries));
        },
        kFenceChannel);
  } catch (const BrokerError& error) {
    if (error.replyCode() == AMQP_RESOURCE_LOCKED) return false;
    throw;
  }
  return true;
}

void Connection::Parts::deleteFence(const std::string& name) {
  call(
      "deleting queue '" + name + "'",
      [&] { amqp_queue_delete(get(), kFenceChannel, toBytes(name), 0, 0); }, kFenceChannel);
}

bool Connection::holdExclusiveQueue(const std::string& name) {
  if (!parts_->declareFence(name)) return false;
  parts_->call(
      "consuming from queue '" + name + "'",
      [&] {
        amqp_basic_consume(parts_->get(), kFenceChannel, toBytes(name),
                           /*consumer_tag=*/toBytes(name), /*no_local=*/0, /*no_ack=*/1,
                           /*exclusive=*/0, amqp_empty_table);
      },
      kFenceChannel);
  return true;
}

bool Connection::isExclusiveQueueFree(const std::string& name) {
  if (!parts_->declareFence(name)) return false;
  parts_->deleteFence(name);
  return true;
}

void Connection::dropExclusiveQueue(const std::string& name) {
  // The consumer first: else the broker would tell it, maybe when the queue is there once more.
  parts_->call(
      "deleting queue '" + name + "'",
      [&] { amqp_basic_cancel(parts_->get(), kFenceChannel, toBytes(name)); }, kFenceChannel);
  parts_->deleteFence(name);
}

std::vector<std::string> Connection::takeLostQueues() {
  return std::exchange(parts_->lostFences, {});
}

void Connection::Parts::takeOfFences(const amqp_frame_t& frame) {
  auto incoming = fenceAssembler.add(frame);
  if (!incoming) return;
  if (auto* cancelled = std::get_if<ConsumerCancelled>(&*incoming)) {
    lostFences.push_back(std::move(cancelled->queue));
  } else if (const auto* closed = std::get_if<ChannelClosed>(&*incoming)) {
    throw BrokerError("RabbitMQ closed the channel of the fences: " + closed->text,
                      closed->replyCode);
  }
}

}  // namespace pillion::amqp
