// Connection's calls about exchanges and queues.

#include <pillion/error.hpp>
#include <utility>

#include "amqp/connection_parts.hpp"
#include "amqp/field_table.hpp"

namespace pillion::amqp {
namespace {

using Headers = std::vector<std::pair<std::string, std::string>>;

std::vector<amqp_table_entry_t> entriesOf(const Headers& headers) {
  std::vector<amqp_table_entry_t> entries;
  entries.reserve(headers.size());
  for (const auto& [name, value] : headers) entries.push_back(textEntry(name, value));
  return entries;
}

std::vector<amqp_table_entry_t> entriesOf(const QueueSpec& queue) {
  std::vector<amqp_table_entry_t> entries;
  for (const auto& [name, value] : queue.textArguments) entries.push_back(textEntry(name, value));
  for (const auto& [name, value] : queue.numberArguments) {
    entries.push_back(numberEntry(name, value));
  }
  if (queue.singleActiveConsumer) entries.push_back(flagEntry("x-single-active-consumer", true));
  return entries;
}

}  // namespace

std::optional<Connection::Parts::Counts> Connection::Parts::look(const std::string& queue) {
  Counts counts;
  try {
    call(
        "looking for queue '" + queue + "'",
        [&] {
          const auto* found = amqp_queue_declare(get(), kChannel, toBytes(queue),
                                                 /*passive=*/1, 1, 0, 0, amqp_empty_table);
          if (found != nullptr) counts = {found->message_count, found->consumer_count};
        },
        kChannel);
    return counts;
  } catch (const BrokerError& error) {
    if (error.replyCode() == AMQP_NOT_FOUND) return std::nullopt;
    throw;
  }
}

void Connection::beforeCalls(std::function<void()> check) {
  parts_->beforeCall = std::move(check);
}

bool Connection::exchangeExists(const std::string& name) {
  try {
    parts_->call("looking for exchange '" + name + "'", [&] {
      amqp_exchange_declare(parts_->get(), kChannel, toBytes(name), amqp_cstring_bytes("topic"),
                            /*passive=*/1, /*durable=*/1, 0, 0, amqp_empty_table);
    });
    return true;
  } catch (const BrokerError& error) {
    if (error.replyCode() == AMQP_NOT_FOUND) return false;
    throw;
  }
}

void Connection::declareTopicExchange(const std::string& name) {
  parts_->call("declaring exchange '" + name + "'", [&] {
    amqp_exchange_declare(parts_->get(), kChannel, toBytes(name), amqp_cstring_bytes("topic"),
                          /*passive=*/0, /*durable=*/1, 0, 0, amqp_empty_table);
  });
}

void Connection::declareExchange(const std::string& name, const std::string& type,
                                 const std::string& alternate) {
  std::vector<amqp_table_entry_t> entries;
  if (!alternate.empty()) entries.push_back(textEntry("alternate-exchange", alternate));
  parts_->call("declaring exchange '" + name + "'", [&] {
    amqp_exchange_declare(parts_->get(), kChannel, toBytes(name), toBytes(type), /*passive=*/0,
                          /*durable=*/1, 0, 0, tableOf(entries));
  });
}

void Connection::deleteExchange(const std::string& name) {
  parts_->call("deleting exchange '" + name + "'", [&] {
    amqp_exchange_delete(parts_->get(), kChannel, toBytes(name), /*if_unused=*/0);
  });
}

void Connection::bindExchange(const std::string& destination, const std::string& source,
                              const std::string& routingKey) {
  parts_->call("binding exchange '" + destination + "' to '" + source + "'", [&] {
    amqp_exchange_bind(parts_->get(), kChannel, toBytes(destination), toBytes(source),
                       toBytes(routingKey), amqp_empty_table);
  });
}

bool Connection::queueExists(const std::string& name) {
  return messageCount(name).has_value();
}

std::optional<std::uint32_t> Connection::messageCount(const std::string& queue) {
  const auto counts = parts_->look(queue);
  if (!counts) return std::nullopt;
  return counts->messages;
}

std::optional<std::uint32_t> Connection::consumerCount(const std::string& queue) {
  const auto counts = parts_->look(queue);
  if (!counts) return std::nullopt;
  return counts->consumers;
}

void Connection::deleteQueue(const std::string& name) {
  parts_->call("deleting queue '" + name + "'", [&] {
    amqp_queue_delete(parts_->get(), kChannel, toBytes(name), /*if_unused=*/0, /*if_empty=*/0);
  });
}

void Connection::declareQueue(const QueueSpec& queue) {
  auto entries = entriesOf(queue);
  parts_->call("declaring queue '" + queue.name + "'", [&] {
    amqp_queue_declare(parts_->get(), kChannel, toBytes(queue.name), /*passive=*/0,
                       /*durable=*/queue.exclusive ? 0 : 1, /*exclusive=*/queue.exclusive ? 1 : 0,
                       /*auto_delete=*/0, tableOf(entries));
  });
}

void Connection::bindQueue(const std::string& queue, const std::string& exchange,
                           const std::string& routingKey, const Headers& headers) {
  auto entries = entriesOf(headers);
  parts_->call("binding queue '" + queue + "' to '" + exchange + "'", [&] {
    amqp_queue_bind(parts_->get(), kChannel, toBytes(queue), toBytes(exchange), toBytes(routingKey),
                    tableOf(entries));
  });
}

void Connection::unbindQueue(const std::string& queue, const std::string& exchange,
                             const std::string& routingKey, const Headers& headers) {
  auto entries = entriesOf(headers);
  parts_->call("unbinding queue '" + queue + "' from '" + exchange + "'", [&] {
    amqp_queue_unbind(parts_->get(), kChannel, toBytes(queue), toBytes(exchange),
                      toBytes(routingKey), tableOf(entries));
  });
}

}  // namespace pillion::amqp
