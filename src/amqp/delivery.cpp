#include "amqp/channel.hpp"
#include "base/printable.hpp"

namespace pillion::amqp {
namespace {

/// `<queue>.p3` is a partition of `<queue>`, `<queue>.p3.2` one of its second generation.
std::string_view withoutPartition(std::string_view queue) {
  const auto dot = queue.rfind(".p");
  if (dot == std::string_view::npos || dot + 2 == queue.size()) return queue;
  const bool isNumber = queue.find_first_not_of(".0123456789", dot + 2) == std::string_view::npos;
  return isNumber ? queue.substr(0, dot) : queue;
}

}  // namespace

bool isRedriven(const Delivery& delivery) {
  return delivery.exchange.empty() ||
         delivery.exchange == std::string(withoutPartition(delivery.queue)) + ".partitions";
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
