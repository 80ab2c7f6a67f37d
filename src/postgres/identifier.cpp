#include "postgres/identifier.hpp"

#include <pillion/error.hpp>

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

std::string inSchema(std::string_view sql, std::string_view schema) {
  static constexpr std::string_view kMark = "{schema}";
  const std::string quoted = quoteIdentifier(schema);
  std::string text;
  std::size_t at = 0;
  for (std::size_t mark = sql.find(kMark); mark != std::string_view::npos;
       mark = sql.find(kMark, at)) {
    text.append(sql.substr(at, mark - at)).append(quoted);
    at = mark + kMark.size();
  }
  return text.append(sql.substr(at));
}

}  // namespace pillion::postgres
