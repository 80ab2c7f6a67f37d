#include "base/environment.hpp"

#include <unistd.h>

#include <array>
#include <cstdlib>

namespace pillion::base {

std::string configured(const std::string& option, const char* variable,
                       const std::string& fallback) {
  if (!option.empty()) return option;
  const char* value = std::getenv(variable);
  return value != nullptr && *value != '\0' ? value : fallback;
}

std::string processName() {
  std::array<char, 256> host{};
  if (::gethostname(host.data(), host.size() - 1) != 0) host[0] = '?';
  return std::string(host.data()) + ":" + std::to_string(::getpid());
}

}  // namespace pillion::base
