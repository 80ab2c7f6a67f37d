#pragma once

#include <string>
#include <vector>

namespace pillion::amqp {

/// One host of a parsed `amqp://` or `amqps://` URL (RabbitMQ URI specification and its query
/// parameters).
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

  /// One for each host that the text names, in its order: at least one. Throws ConfigError, whose
  /// text says the form and never quotes the URL: it may hold a password.
  static std::vector<Url> parse(const std::string& text);

  /// "host:port", an IPv6 address in brackets.
  [[nodiscard]] std::string address() const;
  /// "host:port (vhost '…', user '…')", for messages.
  [[nodiscard]] std::string display() const;
};

}  // namespace pillion::amqp
