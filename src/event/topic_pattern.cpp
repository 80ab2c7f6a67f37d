#include "event/topic_pattern.hpp"

#include <cstddef>
#include <vector>

namespace pillion {
namespace {

std::vector<std::string_view> words(std::string_view text) {
  std::vector<std::string_view> result;
  for (;;) {
    const auto dot = text.find('.');
    result.push_back(text.substr(0, dot));
    if (dot == std::string_view::npos) return result;
    text.remove_prefix(dot + 1);
  }
}

}  // namespace

bool matchesTopic(std::string_view pattern, std::string_view key) {
  const auto wanted = words(pattern);
  const auto given = words(key);
  // reachable[j]: the pattern's words so far can be the key's first j words. A table, not a
  // recursion: patterns with many '#' must stay cheap.
  std::vector<bool> reachable(given.size() + 1, false);
  reachable[0] = true;
  for (const std::string_view word : wanted) {
    std::vector<bool> next(given.size() + 1, false);
    for (std::size_t j = 0; j <= given.size(); ++j) {
      if (word == "#") {
        next[j] = reachable[j] || (j > 0 && next[j - 1]);
      } else if (j > 0) {
        next[j] = reachable[j - 1] && (word == "*" || word == given[j - 1]);
      }
    }
    reachable = std::move(next);
  }
  return reachable[given.size()];
}

std::string topicExpression(std::string_view pattern) {
  std::string expression = "^";
  for (const std::string_view word : words(pattern)) {
    if (word == "#") {
      expression += "(\\.[^.]*)*";
    } else if (word == "*") {
      expression += "\\.[^.]*";
    } else {
      expression += "\\.";
      for (const char c : word) {
        if (std::string_view("\\^$.|?*+()[]{}").find(c) != std::string_view::npos)
          expression += '\\';
        expression += c;
      }
    }
  }
  return expression + '$';
}

}  // namespace pillion
