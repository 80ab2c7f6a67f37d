#include "inbox/error_line.hpp"

#include "base/printable.hpp"

namespace pillion::inbox {

std::string errorLine(std::string_view text) {
  constexpr std::size_t kMost = 1'000;
  text = text.substr(0, text.find('\n'));
  if (text.ends_with('\r')) text.remove_suffix(1);
  return base::printable(text, kMost);
}

}  // namespace pillion::inbox
