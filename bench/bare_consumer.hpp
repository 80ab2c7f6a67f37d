#pragma once

#include <functional>
#include <string>
#include <string_view>

namespace pillion::bench {

struct BareQueue {
  std::string host;
  int port = 0;
  std::string queue;
  int prefetch = 1;
};

/// The limit for absorbing duplicates: rabbitmq-c alone, consuming with manual acks, one for a
/// hundred messages. Returns messages per second from the first to the last.
double consumeBare(const BareQueue& queue, long messages);

/// The limit for a transaction per event: the same with an ack for each message, after this was
/// done with its id and key.
using BareWork = std::function<void(std::string_view id, std::string_view key)>;
double consumeBare(const BareQueue& queue, long messages, const BareWork& work);

}  // namespace pillion::bench
