#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <pillion/error.hpp>
#include <string>
#include <string_view>
#include <variant>

#include "amqp/message.hpp"

namespace pillion::amqp {

/// Which of a relay's two publishing channels. Main: events of which nothing bad is known. Second:
/// those that were refused, one way or another.
enum class Road { Main, Second };

/// So many unconfirmed messages to queues that hang may be on one channel while RabbitMQ still
/// reads the connection. It grants each channel a credit of 400 messages
/// (credit_flow_default_credit), and for one that has used it up it stops reading the whole
/// connection, the other road and a channel.close included.
inline constexpr std::size_t kMostAtHungQueues = 380;

/// basic.ack or basic.nack to something published. `multiple`: every outstanding tag up to this
/// one.
struct Confirm {
  std::uint64_t tag = 0;
  bool multiple = false;
  bool positive = true;
  Road road = Road::Main;
};

/// basic.return: no queue took it. It carries no tag, and comes before the ack of the same message.
struct Returned {
  std::string messageId;
  std::int64_t outboxId = 0;  // 0 when the message had none
  Road road = Road::Main;
};

struct Delivery {
  std::uint64_t tag = 0;  // counted for each consumer by itself
  bool redelivered = false;
  std::string queue;  // it was consumed from
  std::string exchange;
  Message message;
  std::uint64_t consumer = 0;  // which one it came to; no number is used twice
};

/// basic.consume-ok: the broker has the consumer.
struct ConsumerOpened {
  std::uint64_t consumer = 0;
};

/// Did it come by the queue's own name, as a redrive sends it: through the default exchange, or
/// straight to the exchange in front of partitioned queues? What comes to that one by a binding
/// shows the exchange to which it was published first.
bool isRedriven(const Delivery& delivery);

/// Which message this is, for a log line: its id, or what stands in place of one, and how it came.
std::string nameOf(const Delivery& delivery, const Identity* identity);

/// basic.cancel from the broker: the queue was deleted, or its node went down.
struct ConsumerCancelled {
  std::string queue = {};
  std::uint64_t consumer = 0;
};

/// The consumer's channel is closed, and what it was sent and has not acked is the queue's again.
struct ConsumerEnded {
  std::uint64_t consumer = 0;
  std::string queue;
  int replyCode = 0;  // 0: it was asked for
  std::string text;
};

/// connection.blocked and connection.unblocked.
struct Blocked {
  bool now = false;
  std::string reason;
};

/// The broker closed one channel; the connection and the other channel live. Everything unconfirmed
/// on it is unknown.
struct ChannelClosed {
  Road road = Road::Main;
  int replyCode = 0;
  std::string text;
  bool aboutMessage = false;  // over something that was published, not over trouble of its own
};

using Incoming = std::variant<Confirm, Returned, Delivery, ConsumerOpened, ConsumerCancelled,
                              ConsumerEnded, Blocked, ChannelClosed>;

/// Throws what fits the broker's words: ConfigError for what waiting cannot heal, else BrokerError.
[[noreturn]] void throwEnded(const ConsumerEnded& ended);

/// Does the broker close a channel with this code and text over a message that it was sent?
bool isAboutMessage(int replyCode, std::string_view text);

/// Does the broker's text name this message's routing key, or the size of its body? A hint: the
/// text is cut after 255 bytes, and others may have the same.
bool mentions(const ChannelClosed& closed, const Message& message);

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
/// thread. Every call throws BrokerError when the connection is lost; the object is then useless
/// and everything unconfirmed is unknown.
class PublishChannel {
 public:
  virtual ~PublishChannel() = default;

  /// Hands a message over, mandatory and persistent. Returns its tag: 1, 2, 3, … on each road, and
  /// anew after `reopen`. Nothing is known of it before its Confirm. A road whose ChannelClosed
  /// came must be opened again first.
  virtual std::uint64_t publish(Road road, const Message& message) = 0;

  /// Opens a road's channel (anew) in confirm mode: after ChannelClosed, or to give up what it has
  /// in flight, which is then unknown and of which nothing more is heard. Waits for nothing, in
  /// particular not for a channel that hangs. Throws BrokerError when too many hang.
  virtual void reopen(Road road) = 0;

  /// Between `beginBurst` and `endBurst` small writes may be held back to go out together.
  virtual void beginBurst() = 0;
  virtual void endBurst() = 0;

  /// The next thing the broker said, or nothing after `wait`, or sooner when the owner's wake event
  /// is raised. Also keeps heartbeats, so call it at least every quarter of the heartbeat.
  virtual std::optional<Incoming> receive(std::chrono::microseconds wait) = 0;
};

}  // namespace pillion::amqp
