#pragma once

#include <string>
#include <string_view>

namespace pillion {

/// AMQP's topic rule (0-9-1, section 3.1.3.3): words separated by dots, `*` is exactly one word,
/// `#` any number of them.
bool matchesTopic(std::string_view pattern, std::string_view key);

/// Is there a key that both patterns match?
bool patternsMeet(std::string_view one, std::string_view other);

/// The same rule as a regular expression for a dot and the key: each word brings its dot, so that
/// `#` can be no word at all.
std::string topicExpression(std::string_view pattern);

}  // namespace pillion
