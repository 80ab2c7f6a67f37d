#include "amqp/cause.hpp"

#include <algorithm>
#include <array>

#include "amqp/channel.hpp"

namespace pillion::amqp {
namespace {

// AMQP 0-9-1, section 1.2 "reply-code".
constexpr int kContentTooLarge = 311;
constexpr int kInvalidPath = 402;
constexpr int kAccessRefused = 403;
constexpr int kPreconditionFailed = 406;
constexpr int kNotAllowed = 530;

bool has(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

/// Of connections (of a user, a vhost, a node), channels or queues: others of them end some day.
bool isLimit(std::string_view text) {
  static constexpr std::array<std::string_view, 4> kWords{
      ") is reached", "has reached the maximum allowed", "has reached the negotiated channel_max",
      "too many connections"};
  return std::ranges::any_of(kWords, [&](std::string_view words) { return has(text, words); });
}

}  // namespace

Cause causeOf(int replyCode, std::string_view text) {
  switch (replyCode) {
    case kAccessRefused:
      return Cause::NoRight;
    case kPreconditionFailed:  // a queue or exchange that exists with other arguments
    case kNotAllowed:          // no such vhost, or not for this user
      return isLimit(text) ? Cause::Passing : Cause::Final;
    case kInvalidPath:
      return Cause::Final;
    default:
      // It stops (320), a vhost is down (541), something is not there yet (404) or is another
      // connection's (405), it has no resources (506).
      return Cause::Passing;
  }
}

Cause causeOfRefusedLogin(int replyCode, std::string_view text) {
  const Cause cause = causeOf(replyCode, text);
  return cause == Cause::NoRight ? Cause::Final : cause;
}

bool isAboutMessage(int replyCode, std::string_view text) {
  // A routing key that the user may not write (RabbitMQ, "Topic Authorisation"); without the topic
  // it is the exchange, and then every message's trouble.
  if (replyCode == kAccessRefused) return has(text, "access to topic");
  // Larger than the broker's max_message_size, and the like.
  return replyCode == kPreconditionFailed || replyCode == kContentTooLarge;
}

}  // namespace pillion::amqp
