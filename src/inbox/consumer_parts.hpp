#pragma once

#include <pillion/consumer.hpp>

#include "amqp/topology.hpp"
#include "inbox/handler_table.hpp"

namespace pillion::inbox {

/// What a consumer was created with.
struct ConsumerParts {
  ConsumerOptions options;
  amqp::ConsumerTopology topology;
  HandlerTable handlers;
};

}  // namespace pillion::inbox
