#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace pillion::base {

/// The bytes of the UTF-8 character (RFC 3629) that the text begins with; 0 when it begins with
/// none.
std::size_t characterAt(std::string_view text);

/// Line ends and tabs stay where the text is shown as one of several lines.
enum class Lines { Escaped, Kept };

/// Text from outside as UTF-8 that does nothing to a terminal, a log or a table: control characters
/// (C0, DEL, C1), what turns the direction of writing or ends a line, and bytes that are no UTF-8
/// become `\x1b` or `\u202e`. Cut before `most` bytes, not inside a character.
std::string printable(std::string_view text, std::size_t most = std::string::npos,
                      Lines lines = Lines::Escaped);

/// The same between quotation marks and short: 'order-17', or 'xxxx…xx...' (255 bytes).
std::string quoted(std::string_view text);

}  // namespace pillion::base
