#pragma once

#include <chrono>
#include <pillion/options.hpp>
#include <string>

#include "amqp/library.hpp"
#include "amqp/url.hpp"

namespace pillion::amqp {

/// Opens the socket (TCP, or TLS with peer and host name verified). Throws ConfigError or
/// BrokerError.
void openSocket(amqp_connection_state_t state, const Url& url, std::chrono::milliseconds limit);

/// Logs in and opens the channel. Announces the capabilities without which the broker would neither
/// say that it blocks nor that a queue is gone.
void login(amqp_connection_state_t state, const Url& url, const BrokerOptions& options,
           const std::string& connectionName);

/// The one channel of every connection of ours.
inline constexpr amqp_channel_t kChannel = 1;

void openChannel(amqp_connection_state_t state);

}  // namespace pillion::amqp
