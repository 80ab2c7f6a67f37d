#pragma once

#include <string_view>

namespace pillion::inbox {

/// AMQP's topic rule (0-9-1, section 3.1.3.3): words separated by dots, `*` is exactly one word,
/// `#` any number of them.
bool matchesTopic(std::string_view pattern, std::string_view key);

}  // namespace pillion::inbox
