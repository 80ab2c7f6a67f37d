#include "amqp/broker_check.hpp"

#include <pillion/error.hpp>
#include <string>

namespace pillion::amqp {
namespace {

void requireAtLeast(std::chrono::milliseconds value, std::chrono::milliseconds least,
                    const char* field) {
  if (value >= least) return;
  throw ConfigError(std::string("broker option ") + field + " is " + std::to_string(value.count()) +
                    " ms; at least " + std::to_string(least.count()) + " are needed");
}

}  // namespace

void requireValid(const BrokerOptions& options) {
  using std::chrono::milliseconds;
  requireAtLeast(options.heartbeat, milliseconds(1'000), "heartbeat");
  requireAtLeast(options.connectTimeout, milliseconds(1), "connectTimeout");
  requireAtLeast(options.stallTimeout, milliseconds(1), "stallTimeout");
  requireAtLeast(options.reconnectFirst, milliseconds(1), "reconnectFirst");
  requireAtLeast(options.reconnectMost, options.reconnectFirst, "reconnectMost");
}

}  // namespace pillion::amqp
