#pragma once

#include <string>
#include <string_view>

namespace pillion::postgres {

/// Texts as the text form of an array (PostgreSQL manual, 8.15.2), to be passed as one parameter.
template <typename Range, typename Projection>
std::string arrayOf(const Range& range, Projection projection) {
  std::string array = "{";
  for (const auto& element : range) {
    if (array.size() > 1) array += ',';
    array += '"';
    const auto& text = projection(element);  // a text of its own must live as long as it is read
    for (const char c : std::string_view(text)) {
      if (c == '"' || c == '\\') array += '\\';
      array += c;
    }
    array += '"';
  }
  return array + '}';
}

}  // namespace pillion::postgres
