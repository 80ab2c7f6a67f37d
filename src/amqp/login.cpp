#include "amqp/login.hpp"

#include <array>
#include <pillion/error.hpp>

#include "amqp/cause.hpp"
#include "amqp/reply.hpp"
#include "base/printable.hpp"

namespace pillion::amqp {
namespace {

constexpr int kFrameMax =
    131'072;  // bytes; smaller meets a 200 ms stall in the library's last send
constexpr const char* kSystemCertificates = "/etc/ssl/certs/ca-certificates.crt";

timeval toTimeval(std::chrono::milliseconds duration) {
  timeval value{};
  value.tv_sec = duration.count() / 1000;
  value.tv_usec = (duration.count() % 1000) * 1000;
  return value;
}

amqp_socket_t* newTlsSocket(amqp_connection_state_t state, const Url& url) {
  amqp_socket_t* socket = amqp_ssl_socket_new(state);
  if (socket == nullptr) throw BrokerError("no memory for a TLS socket");
  const std::string ca = url.caCertFile.empty() ? kSystemCertificates : url.caCertFile;
  if (amqp_ssl_socket_set_cacert(socket, ca.c_str()) != AMQP_STATUS_OK) {
    throw ConfigError("cannot read the CA certificates in '" + ca + "' (cacertfile)");
  }
  if (!url.certFile.empty() && amqp_ssl_socket_set_key(socket, url.certFile.c_str(),
                                                       url.keyFile.c_str()) != AMQP_STATUS_OK) {
    throw ConfigError("cannot use the client certificate '" + url.certFile + "' with the key '" +
                      url.keyFile + "' (certfile, keyfile)");
  }
  amqp_ssl_socket_set_verify_peer(socket, 1);
  amqp_ssl_socket_set_verify_hostname(socket, 1);
  return socket;
}

[[noreturn]] void throwOpenFailure(int status, const Url& url) {
  const std::string where = url.address();
  switch (status) {
    case AMQP_STATUS_HOSTNAME_RESOLUTION_FAILED:
      throw ConfigError("RabbitMQ: unknown host '" + url.host + "', check PILLION_AMQP_URL");
    case AMQP_STATUS_SSL_HOSTNAME_VERIFY_FAILED:
      throw ConfigError("RabbitMQ at " + where + ": the certificate is for another host name");
    case AMQP_STATUS_SSL_PEER_VERIFY_FAILED:
      throw ConfigError("RabbitMQ at " + where +
                        ": the certificate is not signed by a known authority (cacertfile)");
    default:
      throw BrokerError("RabbitMQ is away at " + where + ": " + amqp_error_string2(status));
  }
}

amqp_table_entry_t textEntry(const char* key, const char* value) {
  amqp_table_entry_t entry;
  entry.key = amqp_cstring_bytes(key);
  entry.value.kind = AMQP_FIELD_KIND_UTF8;
  entry.value.value.bytes = amqp_cstring_bytes(value);
  return entry;
}

amqp_table_entry_t capability(const char* key) {
  amqp_table_entry_t entry;
  entry.key = amqp_cstring_bytes(key);
  entry.value.kind = AMQP_FIELD_KIND_BOOLEAN;
  entry.value.value.boolean = 1;
  return entry;
}

[[noreturn]] void throwLoginFailure(const amqp_rpc_reply_t& reply, const Url& url) {
  if (reply.reply_type == AMQP_RESPONSE_SERVER_EXCEPTION) {
    const CloseReason reason = closeReason(reply.reply);
    if (causeOfRefusedLogin(reason.code, reason.text) == Cause::Passing) {
      throwReply(reply, "logging in at " + url.display());
    }
    throw ConfigError("RabbitMQ refuses the login at " + url.display() + ": " +
                      base::printable(reason.text) + "; check PILLION_AMQP_URL");
  }
  throwReply(reply, "logging in at " + url.display());
}

}  // namespace

void openSocket(amqp_connection_state_t state, const Url& url, std::chrono::milliseconds limit) {
  amqp_socket_t* socket = url.tls ? newTlsSocket(state, url) : amqp_tcp_socket_new(state);
  if (socket == nullptr) throw BrokerError("no memory for a socket");
  const timeval timeout = toTimeval(limit);
  const int status = amqp_socket_open_noblock(socket, url.host.c_str(), url.port, &timeout);
  if (status != AMQP_STATUS_OK) throwOpenFailure(status, url);
}

void login(amqp_connection_state_t state, const Url& url, const BrokerOptions& options,
           const std::string& connectionName) {
  std::array capabilities{capability("connection.blocked"), capability("consumer_cancel_notify"),
                          capability("basic.nack"), capability("publisher_confirms"),
                          capability("authentication_failure_close")};
  amqp_table_entry_t nested;
  nested.key = amqp_cstring_bytes("capabilities");
  nested.value.kind = AMQP_FIELD_KIND_TABLE;
  nested.value.value.table = {static_cast<int>(capabilities.size()), capabilities.data()};
  std::array entries{textEntry("connection_name", connectionName.c_str()),
                     textEntry("product", "Pillion"), textEntry("platform", "C++"), nested};
  const amqp_table_t properties{static_cast<int>(entries.size()), entries.data()};

  const timeval timeout = toTimeval(options.connectTimeout);
  amqp_set_handshake_timeout(state, &timeout);
  amqp_set_rpc_timeout(state, &timeout);
  const auto reply = amqp_login_with_properties(
      state, url.vhost.c_str(), 0, kFrameMax, static_cast<int>(options.heartbeat.count()),
      &properties, AMQP_SASL_METHOD_PLAIN, url.user.c_str(), url.password.c_str());
  if (reply.reply_type != AMQP_RESPONSE_NORMAL) throwLoginFailure(reply, url);
  openChannel(state, kChannel);
}

void openChannel(amqp_connection_state_t state, amqp_channel_t channel) {
  amqp_channel_open(state, channel);
  const auto reply = amqp_get_rpc_reply(state);
  if (reply.reply_type != AMQP_RESPONSE_NORMAL) throwReply(reply, "opening a channel");
}

}  // namespace pillion::amqp
