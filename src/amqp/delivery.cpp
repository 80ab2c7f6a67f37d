#include "amqp/channel.hpp"
#include "amqp/names.hpp"
#include "base/printable.hpp"

namespace pillion::amqp {

bool isRedriven(const Delivery& delivery) {
  return delivery.exchange.empty() ||
         delivery.exchange == partitionExchangeOf(std::string(withoutPartition(delivery.queue)));
}

std::string nameOf(const Delivery& delivery, const Identity* identity) {
  const Message& message = delivery.message;
  std::string name = "a message without message_id";
  if (!message.messageId.empty()) name = "message " + base::quoted(message.messageId);
  if (identity != nullptr) name = "message " + base::quoted(identity->id);
  const auto add = [&](const char* what, std::string_view value) {
    name.append(what) += base::quoted(value);
  };
  add(" (queue ", delivery.queue);
  add(", exchange ", delivery.exchange);
  add(", routing key ", message.routingKey);
  add(", content type ", message.contentType);
  if (!message.contentEncoding.empty()) add(", encoding ", message.contentEncoding);
  return name + ")";
}

}  // namespace pillion::amqp
