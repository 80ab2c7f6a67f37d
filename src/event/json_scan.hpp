#pragma once

#include <cstddef>
#include <string_view>

namespace pillion {

/// Where `stop` first says yes of a character that is in no text of this JSON; its size when it
/// never does. `stop` is given the character's index, and not the quotes. For questions about JSON
/// that must not cost the memory of a parsed value.
template <typename Stop>
std::size_t findOutsideTexts(std::string_view json, Stop stop) {
  bool inText = false;
  for (std::size_t i = 0; i < json.size(); ++i) {
    const char c = json[i];
    if (inText) {
      if (c == '\\') ++i;
      if (c == '"') inText = false;
    } else if (c == '"') {
      inText = true;
    } else if (stop(i)) {
      return i;
    }
  }
  return json.size();
}

}  // namespace pillion
