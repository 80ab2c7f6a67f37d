#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>

namespace pillion {

/// "2026-01-31T23:59:59.123456Z" (RFC 3339, as CloudEvents' `time` wants it).
std::string toRfc3339(std::chrono::system_clock::time_point time);

/// Reads RFC 3339 with any fraction and offset; nothing when it is not of that form.
std::optional<std::chrono::system_clock::time_point> fromRfc3339(std::string_view text);

}  // namespace pillion
