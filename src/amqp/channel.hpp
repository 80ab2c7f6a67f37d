#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <pillion/error.hpp>
#include <string>
#include <variant>

#include "amqp/message.hpp"

namespace pillion::amqp {

/// basic.ack or basic.nack to something published. `multiple`: every outstanding tag up to this
/// one.
struct Confirm {
  std::uint64_t tag = 0;
  bool multiple = false;
  bool positive = true;
};

/// basic.return: no queue took it. It carries no tag, and comes before the ack of the same message.
struct Returned {
  std::string messageId;
  int replyCode = 0;
  std::string replyText;
};

struct Delivery {
  std::uint64_t tag = 0;
  bool redelivered = false;
  std::string queue;  // it was consumed from
  std::string exchange;
  Message message;
};

/// basic.cancel from the broker: the queue was deleted, or its node went down.
struct ConsumerCancelled {};

/// connection.blocked and connection.unblocked.
struct Blocked {
  bool now = false;
  std::string reason;
};

using Incoming = std::variant<Confirm, Returned, Delivery, ConsumerCancelled, Blocked>;

/// The message could not be put on the wire, and the connection is spoilt by the attempt. Another
/// one would fare no better with this message.
class MessageUnsendable : public BrokerError {
 public:
  using BrokerError::BrokerError;
};

/// The broker blocks publishers (a resource alarm). The connection is good; what was published on
/// it is stored when the alarm is over.
class PublishersBlocked : public BrokerError {
 public:
  using BrokerError::BrokerError;
};

/// The relay's whole view of the broker: narrow, so that a simulator can stand in for it. One
/// thread. Every call throws BrokerError when connection or channel are lost; the object is then
/// useless and everything unconfirmed is unknown.
class PublishChannel {
 public:
  virtual ~PublishChannel() = default;

  /// Hands a message over, mandatory and persistent. Returns its tag: 1, 2, 3, … Nothing is known
  /// of it before its Confirm.
  virtual std::uint64_t publish(const Message& message) = 0;

  /// Between `beginBurst` and `endBurst` small writes may be held back to go out together.
  virtual void beginBurst() = 0;
  virtual void endBurst() = 0;

  /// The next thing the broker said, or nothing after `wait`, or sooner when the owner's wake event
  /// is raised. Also keeps heartbeats, so call it at least every quarter of the heartbeat.
  virtual std::optional<Incoming> receive(std::chrono::microseconds wait) = 0;
};

}  // namespace pillion::amqp
