#pragma once

#include <string>

namespace pillion::bench {

/// The limit for absorbing duplicates: rabbitmq-c alone, consuming with manual acks, one for a
/// hundred messages. Returns messages per second from the first to the last.
double consumeBare(const std::string& host, int port, const std::string& queue, long messages,
                   int prefetch);

}  // namespace pillion::bench
