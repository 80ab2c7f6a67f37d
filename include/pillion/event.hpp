/// Event: the value that travels from one service's commit to another service's tables.
#pragma once

#include <chrono>
#include <cstddef>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace pillion {

/// The limits every event is held to when it is written, so that no committed row can break the
/// relay. The 255 bytes are AMQP 0-9-1's short string (section 4.2.5.3); 16 MiB is RabbitMQ 4's
/// default `max_message_size`.
struct EventLimits {
  static constexpr std::size_t kShortString = 255;    ///< bytes
  static constexpr std::size_t kTraceState = 512;     ///< bytes, W3C Trace Context 3.3.1.5
  static constexpr std::size_t kHeaders = 64U << 10;  ///< bytes, names and values together
  static constexpr std::size_t kPayload = 16U << 20;  ///< bytes
};

/// What happened: an id, a type, and data. Attribute names are those of CloudEvents 1.0.
///
/// A plain value: copy it, keep it, hand it to another thread. Setters return the event, so that
/// they chain: `Event("order.paid", data).setKey(orderId).setHeader("tenant", "acme")`.
/// Setters check nothing; `EventPublisher::publish` checks every limit and throws InvalidEvent
/// naming the field, before anything is written.
class Event {
 public:
  using Time = std::chrono::system_clock::time_point;
  using Headers = std::map<std::string, std::string>;

  /// An event with JSON data (content type `application/json`).
  /// The id is made here, as a UUID of version 7 (RFC 9562), so that a transaction that is retried
  /// with the same Event writes the same id. `time` is now.
  /// `type` is also the routing key: words separated by dots, such as "product.created".
  /// Throws InvalidEvent for data that JSON text cannot say: text that is not UTF-8, NaN, infinity,
  /// binary and discarded values, and more than 256 levels.
  Event(std::string type, nlohmann::json data);

  /// An event whose data is bytes of any content type; `data()` then throws.
  /// (A content type of JSON is fine too: the bytes travel untouched.)
  static Event ofBytes(std::string type, std::string bytes, std::string contentType);

  [[nodiscard]] const std::string& id() const { return id_; }          ///< UUID, lower-case text
  [[nodiscard]] const std::string& type() const { return type_; }      ///< and routing key
  [[nodiscard]] const std::string& source() const { return source_; }  ///< the producing service
  /// The aggregate this event is about. Events of one key are delivered in the order in which their
  /// transactions held the aggregate's lock; events without a key have no order.
  [[nodiscard]] const std::string& key() const { return key_; }
  [[nodiscard]] Time time() const { return time_; }  ///< when it happened; microseconds survive
  [[nodiscard]] const std::string& contentType() const { return contentType_; }
  [[nodiscard]] const std::string& correlationId() const { return correlationId_; }
  [[nodiscard]] const std::string& causationId() const { return causationId_; }
  [[nodiscard]] const std::string& traceparent() const { return traceparent_; }
  [[nodiscard]] const std::string& tracestate() const { return tracestate_; }
  [[nodiscard]] const Headers& headers() const { return headers_; }
  [[nodiscard]] std::optional<Time> deliverAt() const { return deliverAt_; }
  [[nodiscard]] std::optional<Time> expiresAt() const { return expiresAt_; }

  /// Is the data JSON, so that data() returns it?
  [[nodiscard]] bool isJson() const { return isJson_; }
  /// The parsed JSON. Valid as long as the event. Throws InvalidEvent when the event was made of
  /// bytes that are not JSON by their content type, or hold an integer of more than 64 bits, which
  /// would be rounded.
  [[nodiscard]] const nlohmann::json& data() const;
  /// The data as it travels: JSON text, or the bytes the event was made of.
  [[nodiscard]] const std::string& bytes() const { return bytes_; }

  /// Only for ids that another system made. Any UUID is accepted; version 7 is what lets the inbox
  /// forget by time, so keep the constructor's unless you must not. With `setDeliverAt`, the time
  /// in an id of version 7 may be at most 12 hours before the due time: publish refuses it
  /// otherwise (InvalidEvent, field `id`), because consumers would dead-letter the event when it
  /// comes.
  Event& setId(std::string id);
  /// Left empty, the publisher writes its own service name.
  Event& setSource(std::string source);
  Event& setKey(std::string key);
  Event& setTime(Time time);
  Event& setCorrelationId(std::string id);
  Event& setCausationId(std::string id);
  /// W3C Trace Context. Left empty, the publisher asks `PublisherOptions::traceContext`.
  Event& setTrace(std::string traceparent, std::string tracestate = "");
  /// Not before this time. The event waits in a table of its own and enters the outbox when it is
  /// due (a relay must run then), so among the events of its key it has the place of its due time,
  /// not that of its writing. Precise to a quarter of a second.
  /// Consumers measure their dedupe window from the time in the id, so when the due time is more
  /// than 12 hours after the constructor's id was made, `id()` changes: it carries the due time
  /// then (to the millisecond) and keeps its random bits. The same time again gives the same id. An
  /// id from `setId` is never changed, in whatever order the two are called.
  Event& setDeliverAt(Time time);
  /// Not worth sending from this time on: the relay drops it, and counts that. Once sent it stays
  /// in the queue; consumers see `expiresAt()` (CloudEvents extension `expirytime`).
  Event& setExpiresAt(Time time);
  /// Own metadata, as AMQP headers. Names beginning with `x-`, `cloudEvents` or `pillion-`, and
  /// `traceparent`/`tracestate`, are taken.
  Event& setHeader(std::string name, std::string value);

 private:
  Event() = default;

  std::string id_;
  std::string madeId_;  // the constructor's id; empty when setId has replaced it
  std::string type_;
  std::string source_;
  std::string key_;
  Time time_;
  std::string contentType_;
  std::string correlationId_;
  std::string causationId_;
  std::string traceparent_;
  std::string tracestate_;
  Headers headers_;
  std::optional<Time> deliverAt_;
  std::optional<Time> expiresAt_;
  nlohmann::json data_;
  bool isJson_ = false;
  bool isRounded_ = false;
  std::string bytes_;
};

/// Is this content type JSON (`application/json`, `text/json`, any `+json`), parameters ignored?
[[nodiscard]] bool isJsonContentType(std::string_view contentType);

}  // namespace pillion
