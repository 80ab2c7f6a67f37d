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

bool patternsMeet(std::string_view one, std::string_view other) {
  const auto a = words(one);
  const auto b = words(other);
  // meets[i][j]: what is left of a from its word i, and of b from its word j.
  std::vector<std::vector<bool>> meets(a.size() + 1, std::vector<bool>(b.size() + 1, false));
  for (std::size_t i = a.size() + 1; i-- > 0;) {
    for (std::size_t j = b.size() + 1; j-- > 0;) {
      const bool manyA = i < a.size() && a[i] == "#";
      const bool manyB = j < b.size() && b[j] == "#";
      if (i == a.size() && j == b.size()) {
        meets[i][j] = true;
      } else if (manyA || manyB) {  // stands for no word, or for one more
        meets[i][j] = (manyA && meets[i + 1][j]) || (manyB && meets[i][j + 1]) ||
                      (manyA && j < b.size() && meets[i][j + 1]) ||
                      (manyB && i < a.size() && meets[i + 1][j]);
      } else if (i < a.size() && j < b.size()) {
        meets[i][j] = (a[i] == "*" || b[j] == "*" || a[i] == b[j]) && meets[i + 1][j + 1];
      }
    }
  }
  return meets[0][0];
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
