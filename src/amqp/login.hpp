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

/// The one channel on which a connection of ours publishes or consumes …
inline constexpr amqp_channel_t kChannel = 1;
/// … and the one for fences: a refusal closes the channel on which it was asked for.
inline constexpr amqp_channel_t kFenceChannel = 2;

void openChannel(amqp_connection_state_t state, amqp_channel_t channel);

}  // namespace pillion::amqp
