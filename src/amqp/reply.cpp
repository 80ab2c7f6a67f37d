#include "amqp/reply.hpp"

#include <cstdlib>
#include <pillion/error.hpp>

#include "amqp/cause.hpp"
#include "amqp/channel.hpp"
#include "base/printable.hpp"

namespace pillion::amqp {
namespace {

bool hasDigitAt(std::string_view text, std::size_t at) {
  return at < text.size() && text[at] >= '0' && text[at] <= '9';
}

bool namesNumber(std::string_view text, std::string_view number) {
  for (auto at = text.find(number); at != std::string_view::npos; at = text.find(number, at + 1)) {
    const bool begins = at == 0 || !hasDigitAt(text, at - 1);
    if (begins && !hasDigitAt(text, at + number.size())) return true;
  }
  return false;
}

}  // namespace

bool mentions(const ChannelClosed& closed, const Message& message) {
  if (!message.routingKey.empty() &&
      closed.text.find("'" + message.routingKey + "'") != std::string::npos) {
    return true;
  }
  return namesNumber(closed.text, std::to_string(message.body.size()));
}

CloseReason closeReason(const amqp_method_t& method) {
  if (method.id == AMQP_CHANNEL_CLOSE_METHOD) {
    const auto* close = static_cast<const amqp_channel_close_t*>(method.decoded);
    return {close->reply_code, toText(close->reply_text)};
  }
  if (method.id == AMQP_CONNECTION_CLOSE_METHOD) {
    const auto* close = static_cast<const amqp_connection_close_t*>(method.decoded);
    return {close->reply_code, toText(close->reply_text)};
  }
  return {};
}

void throwStatus(int status, const std::string& doing) {
  throw BrokerError("RabbitMQ, " + doing + ": " + amqp_error_string2(status));
}

void throwClose(const CloseReason& reason, const std::string& doing) {
  const std::string message = "RabbitMQ, " + doing + ": " + base::printable(reason.text);
  switch (causeOf(reason.code, reason.text)) {
    case Cause::NoRight:
      throw AccessRefused(message +
                          "; grant the user the permission (docs/operating.md lists them)");
    case Cause::Final:
      throw ConfigError(message);
    case Cause::Passing:
      throw BrokerError(message, reason.code);
  }
  std::abort();
}

void throwReply(const amqp_rpc_reply_t& reply, const std::string& doing) {
  if (reply.reply_type == AMQP_RESPONSE_SERVER_EXCEPTION)
    throwClose(closeReason(reply.reply), doing);
  if (reply.reply_type == AMQP_RESPONSE_LIBRARY_EXCEPTION) throwStatus(reply.library_error, doing);
  throw BrokerError("RabbitMQ, " + doing + ": no answer");
}

}  // namespace pillion::amqp
