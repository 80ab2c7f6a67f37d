#pragma once

#include <string>

namespace pillion::base {

/// The first that is not empty: the option, the environment variable, the fallback.
std::string configured(const std::string& option, const char* variable,
                       const std::string& fallback);

/// "host:pid", how a process calls itself towards both servers when it was given no name.
std::string processName();

}  // namespace pillion::base
