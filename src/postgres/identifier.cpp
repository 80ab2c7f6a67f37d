#include "postgres/identifier.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <pillion/error.hpp>

#include "event/event_check.hpp"

namespace pillion::postgres {

std::string quoteIdentifier(std::string_view name) {
  constexpr std::size_t kMost = 63;  // NAMEDATALEN - 1
  if (name.empty() || name.size() > kMost || name.find('\0') != std::string_view::npos) {
    throw ConfigError("schema name of " + std::to_string(name.size()) +
                      " bytes: PILLION_SCHEMA takes 1 to 63 bytes without NUL");
  }
  std::string quoted = "\"";
  for (const char c : name) {
    quoted += c;
    if (c == '"') quoted += c;
  }
  return quoted + '"';
}

namespace {

std::string withName(std::string_view sql, const std::string& quoted) {
  static constexpr std::string_view kMark = "{schema}";
  std::string text;
  std::size_t at = 0;
  for (std::size_t mark = sql.find(kMark); mark != std::string_view::npos;
       mark = sql.find(kMark, at)) {
    text.append(sql.substr(at, mark - at)).append(quoted);
    at = mark + kMark.size();
  }
  return text.append(sql.substr(at));
}

bool isAscii(std::string_view text) {
  return std::ranges::all_of(text, [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

/// The code point that begins at `at` of UTF-8, which is moved behind it.
std::uint32_t takeCodePoint(std::string_view text, std::size_t& at) {
  const auto lead = static_cast<unsigned char>(text[at++]);
  if (lead < 0x80) return lead;
  const unsigned more = lead >= 0xF0 ? 3 : lead >= 0xE0 ? 2 : 1;
  std::uint32_t point = lead & (0x3FU >> more);
  for (unsigned i = 0; i < more; ++i) {
    point = (point << 6U) | (static_cast<unsigned char>(text[at++]) & 0x3FU);
  }
  return point;
}

}  // namespace

std::string inSchema(std::string_view sql, std::string_view schema) {
  return withName(sql, quoteIdentifier(schema));
}

std::string inSchemaAsAscii(std::string_view sql, std::string_view schema) {
  const std::string quoted = quoteIdentifier(schema);
  if (isAscii(quoted) || !isUtf8Text(quoted)) return withName(sql, quoted);
  std::string escaped = "U&";  // PostgreSQL manual, 4.1.1
  for (std::size_t at = 0; at < quoted.size();) {
    const std::uint32_t point = takeCodePoint(quoted, at);
    if (point < 0x80) {
      escaped += point == '\\' ? "\\\\" : std::string(1, static_cast<char>(point));
      continue;
    }
    std::array<char, 16> text{};
    std::snprintf(text.data(), text.size(), "\\+%06X", point);
    escaped += text.data();
  }
  return withName(sql, escaped);
}

}  // namespace pillion::postgres
