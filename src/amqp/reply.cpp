#include "amqp/reply.hpp"

#include <pillion/error.hpp>

namespace pillion::amqp {
namespace {

constexpr int kAccessRefused = 403;
constexpr int kPreconditionFailed = 406;
constexpr int kNotAllowed = 530;

}  // namespace

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
  const std::string message = "RabbitMQ, " + doing + ": " + reason.text;
  if (reason.code == kAccessRefused) {
    throw AccessRefused(message + "; grant the user the permission (docs/operating.md lists them)");
  }
  if (reason.code == kPreconditionFailed || reason.code == kNotAllowed) {
    throw ConfigError(message);
  }
  throw BrokerError(message, reason.code);
}

void throwReply(const amqp_rpc_reply_t& reply, const std::string& doing) {
  if (reply.reply_type == AMQP_RESPONSE_SERVER_EXCEPTION)
    throwClose(closeReason(reply.reply), doing);
  if (reply.reply_type == AMQP_RESPONSE_LIBRARY_EXCEPTION) throwStatus(reply.library_error, doing);
  throw BrokerError("RabbitMQ, " + doing + ": no answer");
}

}  // namespace pillion::amqp
