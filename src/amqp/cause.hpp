#pragma once

#include <string_view>

namespace pillion::amqp {

/// What kind of trouble the broker's words tell of.
enum class Cause {
  Passing,  ///< may be over without anybody doing anything
  Final,    ///< somebody must change a setting, at the broker or here
  NoRight,  ///< final, too: the user lacks a permission
};

/// By the code and text with which the broker closed a channel or a connection, other than over a
/// message. The texts are those of RabbitMQ 3.10 to 4.2, which has several causes for one code.
Cause causeOf(int replyCode, std::string_view text);

/// The same while logging in, when a refusal is of the login itself.
Cause causeOfRefusedLogin(int replyCode, std::string_view text);

}  // namespace pillion::amqp
