#pragma once

#include <string>

#include "amqp/connection.hpp"
#include "bench_servers.hpp"

namespace pillion::bench {

inline constexpr long kKeys = 10'000;

/// Ids of version 7, made now: `run` and `number` decide, so that they can be sent again.
std::string idOf(long run, long number);

/// An event as a relay sends it, its key the number modulo kKeys.
amqp::Message messageOf(long run, long number, std::size_t bytes = kPayload);

/// Of 64: what a relay writes beside the key, and partitioned queues are bound by.
int laneOf(const std::string& key);

/// Publishes so many events; returns when the broker has all of them on its disk.
void feed(const BrokerOptions& broker, long run, long events, std::size_t bytes = kPayload);

}  // namespace pillion::bench
