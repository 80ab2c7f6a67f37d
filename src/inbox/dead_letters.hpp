#pragma once

#include <memory>
#include <pillion/options.hpp>
#include <string>

#include "amqp/connection.hpp"
#include "base/clock.hpp"

namespace pillion::inbox {

/// Why a message could not be applied, as it is written into the dead letter.
struct DeadLetterReason {
  std::string reason;  // one word
  std::string error;   // at most a line; no payload
  int attempts = 0;
  std::string firstFailedAt = {};  // RFC 3339; empty: now
  std::string lastFailedAt = {};
};

/// Where dead letters go: narrow, so that a simulator can stand in for it.
class DeadLetterSink {
 public:
  virtual ~DeadLetterSink() = default;
  /// Returns when the copy is safe. Throws BrokerError when that cannot be known.
  virtual void send(const amqp::Delivery& delivery, const DeadLetterReason& reason) = 0;
};

/// Copies messages to `<queue>.dead`, confirmed by the broker before the original is acked. Has a
/// connection of its own while it is used, since a blocked publisher must not hold up acks. While
/// the broker blocks publishers, `send` fails at once: nobody is to wait for it with a transaction
/// or a key in hand. What was sent when that began is written when it ends, and once more by
/// whoever tries again: a second copy, of which at most one is ever applied.
class DeadLetters : public DeadLetterSink {
 public:
  DeadLetters(const BrokerOptions& options, std::string queue);

  void send(const amqp::Delivery& delivery, const DeadLetterReason& reason) override;

 private:
  amqp::Connection& connection();
  /// False when no queue took it.
  bool publish(const amqp::Message& copy);
  void declareQueue();

  BrokerOptions options_;
  std::string queue_;
  std::unique_ptr<amqp::Connection> connection_;
  base::Clock::Boot lastUse_{0};
  bool blocked_ = false;  // publishers are, as the broker said on this connection
};

}  // namespace pillion::inbox
