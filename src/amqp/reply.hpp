#pragma once

#include <cstdint>
#include <pillion/error.hpp>
#include <string>
#include <string_view>

#include "amqp/library.hpp"

namespace pillion::amqp {

/// Borrows.
inline std::string_view toView(amqp_bytes_t bytes) {
  return {static_cast<const char*>(bytes.bytes), bytes.len};
}

inline std::string toText(amqp_bytes_t bytes) {
  return {static_cast<const char*>(bytes.bytes), bytes.len};
}

/// Borrows: the text must outlive the use.
inline amqp_bytes_t toBytes(std::string_view text) {
  amqp_bytes_t bytes;
  bytes.len = text.size();
  bytes.bytes = const_cast<char*>(text.data());  // the library never writes through it
  return bytes;
}

/// What the broker said when it closed a channel or connection.
struct CloseReason {
  int code = 0;
  std::string text;
};

/// The broker's user lacks a right (403).
class AccessRefused : public ConfigError {
 public:
  using ConfigError::ConfigError;
};

/// From a channel.close or connection.close method; code 0 when it is neither.
CloseReason closeReason(const amqp_method_t& method);

/// Throws the Error that fits a failed reply: ConfigError for what waiting cannot heal (cause.hpp),
/// else BrokerError. `doing` completes the message.
[[noreturn]] void throwReply(const amqp_rpc_reply_t& reply, const std::string& doing);
[[noreturn]] void throwClose(const CloseReason& reason, const std::string& doing);
[[noreturn]] void throwStatus(int status, const std::string& doing);

}  // namespace pillion::amqp
