#pragma once

#include <string>

namespace pillion::bench {

/// The limit that the relay is measured against: rabbitmq-c alone, publishing the same bytes from
/// memory with confirms, mandatory, persistent, and the same window. Returns seconds until the last
/// confirm.
double publishBare(const std::string& host, int port, const std::string& exchange, long messages,
                   long window);

}  // namespace pillion::bench
