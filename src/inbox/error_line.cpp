#include "inbox/error_line.hpp"

#include "event/event_check.hpp"

namespace pillion::inbox {
namespace {

constexpr std::size_t kMost = 1'000;

/// The bytes of the character that begins here; 0 when none does.
std::size_t characterAt(std::string_view text) {
  for (std::size_t size = 1; size <= 4 && size <= text.size(); ++size) {
    if (isUtf8Text(text.substr(0, size))) return size;
  }
  return 0;
}

bool isControl(char c) {
  return (c >= 0 && c < ' ') || c == '\x7f';
}

}  // namespace

std::string errorLine(std::string_view text) {
  text = text.substr(0, text.find('\n'));
  std::string line;
  while (!text.empty()) {
    // '?' rather than U+FFFD, which a database in another encoding than UTF-8 may not know.
    const std::size_t size = characterAt(text);
    const std::string_view character = size > 0 ? text.substr(0, size) : "?";
    if (line.size() + character.size() > kMost) break;
    line += isControl(text[0]) ? " " : character;
    text.remove_prefix(size > 0 ? size : 1);
  }
  return line;
}

}  // namespace pillion::inbox
