#pragma once

#include <string>

namespace pillion::amqp {

/// A parsed `amqp://` or `amqps://` URL (RabbitMQ URI specification and its query parameters).
struct Url {
  bool tls = false;
  std::string host = "localhost";
  int port = 5672;
  std::string user = "guest";
  std::string password = "guest";
  std::string vhost = "/";
  std::string caCertFile = "";
  std::string certFile = "";
  std::string keyFile = "";

  /// Throws ConfigError, whose text says the form and never quotes the URL: it may hold a password.
  static Url parse(const std::string& text);
  /// "host:port (vhost '…', user '…')", for messages.
  [[nodiscard]] std::string display() const;
};

}  // namespace pillion::amqp
