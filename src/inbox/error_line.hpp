#pragma once

#include <string>
#include <string_view>

namespace pillion::inbox {

/// What an exception says, fit for a log line, a text column and a header: the first line of it,
/// printable and cut after 1,000 bytes. Exceptions quote what they choked on, which need not be
/// text.
std::string errorLine(std::string_view text);

}  // namespace pillion::inbox
