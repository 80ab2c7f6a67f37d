#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <pillion/event.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "event/row.hpp"

// The one mapping between an event and AMQP 0-9-1 properties, headers and body, both ways.
//
// | event          | property          | header                      |
// |----------------|-------------------|-----------------------------|
// | id             | message_id        | cloudEvents_id              |
// | type           | type, routing key | cloudEvents_type            |
// | source         | app_id            | cloudEvents_source          |
// | key            |                   | cloudEvents_partitionkey    |
// | lane           |                   | pillion-lane, 0 to 63       |
// | time           | timestamp (s)     | cloudEvents_time (RFC 3339) |
// | expiresAt      |                   | cloudEvents_expirytime      |
// | contentType    | content_type      |                             |
// | correlationId  | correlation_id    |                             |
// | causationId    |                   | pillion-causation-id        |
// | traceparent    |                   | traceparent                 |
// | tracestate     |                   | tracestate                  |
// | headers        |                   | as they are                 |
// | outbox id      |                   | pillion-outbox-id           |
//
// Prefix and names: CloudEvents AMQP protocol binding 1.0.2, section 3.1.3.1, and the partitioning
// extension. The prefix with '_' is the one that every AMQP library can carry.
//
// What others send is read as well (received.cpp):
// - The property counts before the header where both are there and differ, and the routing key is
//   the type when neither is. But `type` is `binary` in what RabbitMQ up to 3.12 has taken from an
//   AMQP 1.0 sender, and says nothing then.
// - Headers with the prefixes `cloudEvents:`, and `ce-`, `ce_` or none when `specversion` is among
//   them.
// - An event that is whole in the body, attributes and all: content type
//   `application/cloudevents+json`. Its attributes count, and no property or header does.
// - A body that is packed: content encoding `gzip`.

namespace pillion::amqp {

/// Part of the keys that an event belongs to, of 64: what partitioned queues are bound by. It
/// follows from the key alone.
inline constexpr const char* kLaneHeader = "pillion-lane";
inline constexpr int kLanes = 64;

/// Where a message came from, in decimal: what a return by the broker is matched by, since two
/// sources may choose the same event id.
inline constexpr const char* kOutboxIdHeader = "pillion-outbox-id";

/// The event, or the request, that this one came of.
inline constexpr const char* kCausationIdHeader = "pillion-causation-id";

/// Size of a body that was received and not kept, since it is larger than an event's may be. What
/// carries this header is no event, however often it is sent on.
inline constexpr const char* kBodyMissingHeader = "pillion-body-missing";

/// Headers of an event take at most so much: beside the user's own it carries its attributes.
inline constexpr std::size_t kMostHeaders = EventLimits::kHeaders + (16U << 10);

/// Does this header tell of a message's way (written by brokers, or with a dead letter) and not of
/// the event? Such headers are not sent on, and none is part of an event.
bool isOfTheWay(std::string_view header);

/// The property `timestamp`, which is in seconds (AMQP 0-9-1, 4.2.5.4). Many senders write
/// milliseconds; what would be after the year 2200 is taken for these, and nothing is known when
/// that is no time either.
std::optional<Event::Time> timeOfTimestamp(std::uint64_t timestamp);

/// A message as it is sent or was received. Delivery mode is always persistent when sent.
struct Message {
  std::string routingKey;
  std::string messageId;
  std::string type;
  std::string appId;
  std::string contentType;
  std::string contentEncoding;  // no event has one; kept for those of others
  std::string correlationId;
  std::uint64_t timestamp = 0;  // seconds; 0 = none
  std::vector<std::pair<std::string, std::string>> headers;
  std::string body;

  /// Set when it was made of a stored event: then the CloudEvents headers are not in `headers`, but
  /// follow from the other fields, which spares the relay a dozen small allocations per event.
  struct Attributes {
    std::string time;  // RFC 3339
    std::string key;
    std::string expiresAt;  // RFC 3339, or empty
    int lane = 0;
    std::int64_t outboxId = 0;  // 0 = none
  };
  std::optional<Attributes> attributes = {};
};

using HeaderView = std::pair<std::string_view, std::string_view>;

/// All headers of a message as they are sent; they borrow from it. To be used again for the next,
/// which then costs no memory.
class SentHeaders {
 public:
  const std::vector<HeaderView>& of(const Message& message);

 private:
  std::vector<HeaderView> headers_;
  std::array<char, 20> outboxId_{};
};

/// Why something cannot be a message, or an event.
struct Problem {
  std::string reason;  // one word, for headers, tables and metrics
  std::string detail;  // no payload in it
};

/// A stored event as a message, made of the row's texts. A Problem when it would break the
/// connection, and then the row is as it was: it can only have been written around the publisher.
std::variant<Message, Problem> messageFrom(Row&& row);

/// What the inbox and the order of a key go by. Found without looking at the body, unless the
/// attributes are in it.
struct Identity {
  std::string id;  // lower-case UUID
  std::string source;
  std::string key;
  std::string type;
};
std::variant<Identity, Problem> identityOf(const Message& message);

/// The value of a header; null when there is none.
const std::string* findHeader(const Message& message, std::string_view name);

/// What a header takes on the wire.
std::size_t sizeOf(const std::pair<std::string, std::string>& header);

/// A received message as an event.
std::variant<Event, Problem> eventFrom(const Message& message);

}  // namespace pillion::amqp
