#include "base/printable.hpp"

#include <array>
#include <cstdint>
#include <cstdio>

namespace pillion::base {
namespace {

constexpr std::size_t kQuoted = 60;

struct Character {
  std::size_t size = 0;  // 0: none
  std::uint32_t point = 0;
};

Character decodedAt(std::string_view text) {
  static constexpr std::array<std::uint32_t, 4> kLeast{0, 0x80, 0x800, 0x10000};
  if (text.empty()) return {};
  const auto lead = static_cast<unsigned char>(text[0]);
  if (lead < 0x80) return {1, lead};
  const std::size_t more = lead >= 0xF0 ? 3 : lead >= 0xE0 ? 2 : 1;
  if (lead < 0xC2 || lead > 0xF4 || text.size() <= more) return {};
  std::uint32_t point = lead & (0x3FU >> more);
  for (std::size_t i = 1; i <= more; ++i) {
    const auto next = static_cast<unsigned char>(text[i]);
    if ((next & 0xC0U) != 0x80) return {};
    point = (point << 6U) | (next & 0x3FU);
  }
  const bool surrogate = point >= 0xD800 && point <= 0xDFFF;
  if (point < kLeast[more] || point > 0x10FFFF || surrogate) return {};
  return {more + 1, point};
}

bool isControl(std::uint32_t point) {
  return point < 0x20 || (point >= 0x7F && point < 0xA0);
}

/// Marks that turn the direction of writing, and the separators of lines and paragraphs.
bool movesText(std::uint32_t point) {
  return point == 0x061C || point == 0x200E || point == 0x200F ||
         (point >= 0x2028 && point <= 0x202E) || (point >= 0x2066 && point <= 0x2069);
}

std::string escaped(const char* form, std::uint32_t number) {
  std::array<char, 12> text{};
  std::snprintf(text.data(), text.size(), form, number);
  return text.data();
}

}  // namespace

std::size_t characterAt(std::string_view text) {
  return decodedAt(text).size;
}

std::string printable(std::string_view text, std::size_t most, Lines lines) {
  std::string result;
  while (!text.empty()) {
    const Character character = decodedAt(text);
    const std::size_t size = character.size > 0 ? character.size : 1;
    const bool kept = lines == Lines::Kept && (text[0] == '\n' || text[0] == '\t');
    std::string shown(text.substr(0, size));
    if (character.size == 0) {
      shown = escaped("\\x%02x", static_cast<unsigned char>(text[0]));
    } else if (isControl(character.point) && !kept) {
      shown = escaped("\\x%02x", character.point);
    } else if (movesText(character.point)) {
      shown = escaped("\\u%04x", character.point);
    }
    if (shown.size() > most - result.size()) break;
    result += shown;
    text.remove_prefix(size);
  }
  return result;
}

std::string quoted(std::string_view text) {
  if (text.size() <= kQuoted) return "'" + printable(text) + "'";
  std::size_t end = kQuoted;
  while (end > kQuoted - 3 && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80) --end;
  return "'" + printable(text.substr(0, end)) + "...' (" + std::to_string(text.size()) + " bytes)";
}

}  // namespace pillion::base
