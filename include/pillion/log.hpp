/// Where Pillion's log lines go.
#pragma once

#include <memory>

namespace spdlog {
class logger;
}

namespace pillion {

/// The logger that Pillion writes to: spdlog's logger named "pillion" when the application has
/// registered one, else one of our own to standard error, registered under that name when it is
/// free. Never throws, never touches the application's default logger, may be called from any
/// thread and as often as one likes.
std::shared_ptr<spdlog::logger> logger() noexcept;

/// Hands Pillion the application's own logger from now on; null returns to the rule above.
/// Any thread. Lines hold ids, types and counts, never payloads, header values or passwords.
void useLogger(std::shared_ptr<spdlog::logger> logger) noexcept;

}  // namespace pillion
