#pragma once

#include <string>

#include "amqp/library.hpp"

namespace pillion::amqp {

/// A header's value as text: numbers and booleans as they are written, arrays and tables as JSON.
/// No event of Pillion's has any but texts; those of others and the broker's own (x-death) do. What
/// is nested deeper than brokers and people do is left out.
std::string textOf(const amqp_field_value_t& value);

}  // namespace pillion::amqp
