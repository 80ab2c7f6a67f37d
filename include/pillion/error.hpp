/// What Pillion throws. One base, three questions a caller can act on; few kinds.
///
/// Inside a transaction that the caller owns (`EventPublisher::publish(tx, …)`, a consumer's
/// handler) pqxx's own exceptions pass through untouched, so that the caller's `catch` clauses and
/// retry loops keep working. Messages never hold a password, a payload or a header value.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>

namespace pillion {

/// Base of everything that Pillion throws by itself.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;

  /// Can the same call succeed later without anybody changing anything? A server that is away: yes.
  /// A wrong password, an event that breaks a limit: no.
  [[nodiscard]] virtual bool retryable() const noexcept { return false; }

  /// Is the connection that the call used gone? Then a new one is needed before a retry.
  [[nodiscard]] virtual bool connectionLost() const noexcept { return false; }

  /// Was a COMMIT sent whose answer never came? Then the work is either done or not done. Repeat it
  /// with the *same* Event object: its id is unchanged and the inbox drops the second copy.
  [[nodiscard]] virtual bool outcomeInDoubt() const noexcept { return false; }
};

/// An option, a URL or an environment variable is wrong, or a server refuses what it asks for
/// (unknown host, wrong password, missing permission, a queue with other arguments). The message
/// names it and says what to do.
class ConfigError : public Error {
 public:
  using Error::Error;
};

/// The schema is missing, older or newer than this program, altered, or the database is not the one
/// the outbox was made in (restored or promoted).
class SchemaError : public Error {
 public:
  using Error::Error;
};

/// An event breaks a limit of the wire or of the table; nothing was written.
class InvalidEvent : public Error {
 public:
  InvalidEvent(std::string field, const std::string& problem)
      : Error("event field '" + field + "' " + problem), field_(std::move(field)) {}

  /// The event's field, in the spelling of the Event class: "type", "key", "headers", …
  [[nodiscard]] const std::string& field() const noexcept { return field_; }

 private:
  std::string field_;
};

/// PostgreSQL could not do what Pillion asked on a connection of its own.
class DatabaseError : public Error {
 public:
  enum class Kind { Unavailable, InDoubt, Refused };

  DatabaseError(Kind kind, const std::string& message) : Error(message), kind_(kind) {}

  [[nodiscard]] bool retryable() const noexcept override { return kind_ != Kind::Refused; }
  [[nodiscard]] bool connectionLost() const noexcept override { return kind_ != Kind::Refused; }
  [[nodiscard]] bool outcomeInDoubt() const noexcept override { return kind_ == Kind::InDoubt; }

 private:
  Kind kind_;
};

/// RabbitMQ is away, closed the connection or the channel, or did not answer in time.
class BrokerError : public Error {
 public:
  explicit BrokerError(const std::string& message, int replyCode = 0)
      : Error(message), replyCode_(replyCode) {}

  [[nodiscard]] bool retryable() const noexcept override { return true; }
  [[nodiscard]] bool connectionLost() const noexcept override { return true; }

  /// AMQP 0-9-1 reply code (section 1.2 "reply-code"), 0 when there was none.
  [[nodiscard]] int replyCode() const noexcept { return replyCode_; }

 private:
  int replyCode_;
};

/// Thrown *by a handler*: this event will never succeed, do not try it again. Its effects are
/// rolled back and it goes to the dead-letter queue with this text as the reason's error.
class RejectEvent : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace pillion
