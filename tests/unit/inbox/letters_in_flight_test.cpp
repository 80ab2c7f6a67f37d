#include "inbox/letters_in_flight.hpp"

#include <doctest/doctest.h>

using pillion::amqp::Confirm;
using pillion::inbox::LettersInFlight;
using Numbers = std::vector<std::int64_t>;

namespace {

/// Letters 11, 12, … with the tags 1, 2, …
LettersInFlight sent(std::size_t count) {
  LettersInFlight letters;
  for (std::size_t tag = 1; tag <= count; ++tag) {
    letters.add(tag, {.seq = static_cast<std::int64_t>(10 + tag)});
  }
  return letters;
}

Numbers confirmedOf(const LettersInFlight& letters) {
  Numbers numbers;
  for (const auto& letter : letters.confirmed()) numbers.push_back(letter.seq);
  return numbers;
}

}  // namespace

TEST_CASE("letters are settled one by one, and all up to one, in any order") {
  auto letters = sent(5);
  letters.settle({.tag = 4});
  letters.settle({.tag = 4});  // nothing is settled twice
  CHECK(confirmedOf(letters) == Numbers{14});
  letters.settle({.tag = 3, .multiple = true});
  CHECK(confirmedOf(letters) == Numbers{14, 11, 12, 13});
  CHECK(letters.size() == 1);
  letters.settle({.tag = 5, .positive = false});
  CHECK(letters.empty());
  CHECK(letters.takeRefused() == Numbers{15});
  CHECK_FALSE(letters.anyRefused());
}

TEST_CASE("after a return none of those in flight counts as safe, and those sent later do") {
  auto letters = sent(2);
  letters.settle({.tag = 1});
  letters.noteReturn();
  letters.add(3, {.seq = 13});
  letters.settle({.tag = 3, .multiple = true});
  CHECK(confirmedOf(letters) == Numbers{11, 13});
  CHECK(letters.takeRefused() == Numbers{12});
  CHECK(letters.takeMissing());
  CHECK_FALSE(letters.takeMissing());
}

TEST_CASE("with the connection all in flight are refused, and none that was confirmed") {
  auto letters = sent(3);
  letters.settle({.tag = 2});
  CHECK(letters.all() == Numbers{12, 11, 13});
  letters.noteReturn();
  CHECK(letters.lose() == Numbers{11, 13});
  CHECK(letters.empty());
  CHECK(letters.takeRefused() == Numbers{11, 13});
  CHECK(confirmedOf(letters) == Numbers{12});
  letters.add(1, {.seq = 14});  // on the next connection
  letters.settle({.tag = 1});
  CHECK(confirmedOf(letters) == Numbers{12, 14});
}
