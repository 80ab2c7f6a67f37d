#include "event/topic_pattern.hpp"

#include <doctest/doctest.h>

#include <chrono>
#include <string>

#include "support/scripted_random.hpp"

using pillion::matchesTopic;
using pillion::patternsMeet;

namespace {

struct Case {
  const char* pattern;
  const char* key;
  bool matches;
};

/// The rule itself, word by word; exponential, so only for short ones.
bool matchesPlainly(const std::vector<std::string>& pattern, std::size_t at,
                    const std::vector<std::string>& key, std::size_t from) {
  if (at == pattern.size()) return from == key.size();
  if (pattern[at] == "#") {
    for (std::size_t skip = from; skip <= key.size(); ++skip) {
      if (matchesPlainly(pattern, at + 1, key, skip)) return true;
    }
    return false;
  }
  if (from == key.size()) return false;
  if (pattern[at] != "*" && pattern[at] != key[from]) return false;
  return matchesPlainly(pattern, at + 1, key, from + 1);
}

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (std::size_t i = 0; i < words.size(); ++i) text += (i == 0 ? "" : ".") + words[i];
  return text;
}

}  // namespace

TEST_CASE("topic patterns match as AMQP says") {
  const Case cases[] = {
      {"a", "a", true},
      {"a", "b", false},
      {"a", "a.b", false},
      {"a.b", "a", false},
      {"a.b", "a.b", true},
      {"*", "a", true},
      {"*", "a.b", false},
      {"*", "", true},  // one word, of no letters
      {"*.b", "a.b", true},
      {"*.b", "b", false},
      {"a.*", "a.b", true},
      {"a.*", "a", false},
      {"a.*", "a.b.c", false},
      {"a.*.c", "a.b.c", true},
      {"*.*", "a.b", true},
      {"#", "", true},
      {"#", "a", true},
      {"#", "a.b.c.d", true},
      {"a.#", "a", true},
      {"a.#", "a.b", true},
      {"a.#", "a.b.c", true},
      {"a.#", "ab", false},
      {"#.c", "c", true},
      {"#.c", "a.b.c", true},
      {"#.c", "a.c.b", false},
      {"a.#.c", "a.c", true},
      {"a.#.c", "a.b.b.c", true},
      {"a.#.c", "a.b", false},
      {"#.b.#", "b", true},
      {"#.b.#", "a.b.c", true},
      {"#.b.#", "a.c", false},
      {"#.#", "a", true},
      {"#.*", "a", true},
      {"#.*.#", "a.b", true},
      {"*.#", "a", true},
      {"lazy.#", "lazy.orange.male.rabbit", true},
      {"a*", "ab", false},
      {"a*", "a*", true},
      {"a#", "ab", false},
      {"**", "a", false},
      {"A", "a", false},
      {"a..b", "a..b", true},
      {"a.*.b", "a..b", true},
      {".", ".", true},
      {"product.*", "product.created", true},
      {"product.*", "product.price.changed", false},
  };
  for (const Case& expected : cases) {
    CAPTURE(std::string(expected.pattern));
    CAPTURE(std::string(expected.key));
    CHECK(matchesTopic(expected.pattern, expected.key) == expected.matches);
  }
}

TEST_CASE("5,000 generated patterns match as the plain rule does") {
  pillion::test::SeededRandom random(5);
  const char* const words[] = {"a", "b", "*", "#"};
  for (int i = 0; i < 5'000; ++i) {
    std::vector<std::string> pattern(1 + random.below(5));
    std::vector<std::string> key(1 + random.below(5));
    for (auto& word : pattern) word = words[random.below(4)];
    for (auto& word : key) word = words[random.below(2)];
    CAPTURE(joined(pattern));
    CAPTURE(joined(key));
    REQUIRE(matchesTopic(joined(pattern), joined(key)) == matchesPlainly(pattern, 0, key, 0));
  }
}

TEST_CASE("a pattern with very many '#' stays cheap") {
  std::string pattern = "#";
  std::string key = "a";
  for (int i = 0; i < 60; ++i) pattern += ".#.a";
  for (int i = 0; i < 120; ++i) key += ".a";
  const auto begin = std::chrono::steady_clock::now();
  CHECK(matchesTopic(pattern, key));
  CHECK_FALSE(matchesTopic(pattern + ".b", key));
  CHECK(std::chrono::steady_clock::now() - begin < std::chrono::milliseconds(100));
}

TEST_CASE("two patterns meet exactly when a key matches both") {
  const std::vector<std::string> words{"a", "b", "*", "#"};
  std::vector<std::string> patterns;
  std::vector<std::string> keys;
  for (const auto& one : words) {
    patterns.push_back(one);
    for (const auto& two : words) {
      patterns.push_back(one + '.' + two);
      for (const auto& three : words) patterns.push_back(one + '.' + two + '.' + three);
    }
  }
  // Of up to six words, since that is as much as two patterns of three words can need; `c` is for
  // what no word of theirs names.
  std::vector<std::string> longest{""};
  for (int length = 1; length <= 6; ++length) {
    std::vector<std::string> longer;
    for (const auto& key : longest) {
      for (const char word : {'a', 'b', 'c'})
        longer.push_back(key + (key.empty() ? "" : ".") + word);
    }
    keys.insert(keys.end(), longer.begin(), longer.end());
    longest = std::move(longer);
  }
  std::vector<std::vector<bool>> matched;
  for (const auto& pattern : patterns) {
    std::vector<bool> row;
    for (const auto& key : keys) row.push_back(matchesTopic(pattern, key));
    matched.push_back(std::move(row));
  }
  int wrong = 0;
  for (std::size_t i = 0; i < patterns.size(); ++i) {
    for (std::size_t j = 0; j < patterns.size(); ++j) {
      bool any = false;
      for (std::size_t k = 0; k < keys.size() && !any; ++k) any = matched[i][k] && matched[j][k];
      if (any != patternsMeet(patterns[i], patterns[j])) {
        ++wrong;
        MESSAGE(patterns[i], " and ", patterns[j]);
      }
    }
  }
  CHECK(wrong == 0);
  CHECK_FALSE(patternsMeet("account.*", "acount.credited"));
  CHECK(patternsMeet("account.*", "account.credited"));
}
