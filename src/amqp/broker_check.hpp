#pragma once

#include <pillion/options.hpp>

namespace pillion::amqp {

/// Throws ConfigError naming the field for values with which waits would spin or every connection
/// would end.
void requireValid(const BrokerOptions& options);

}  // namespace pillion::amqp
