#pragma once

#include <CLI/CLI.hpp>
#include <pillion/options.hpp>

namespace pillion::cli {

/// The flag that says where the broker is, the same for every verb.
inline void addBrokerUrl(CLI::App& command, BrokerOptions& options) {
  command.add_option("--amqp-url", options.url,
                     "RabbitMQ URL; else PILLION_AMQP_URL, else amqp://guest:guest@localhost");
}

}  // namespace pillion::cli
