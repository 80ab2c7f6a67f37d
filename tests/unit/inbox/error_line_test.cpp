#include "inbox/error_line.hpp"

#include <doctest/doctest.h>

#include "event/event_check.hpp"
#include "inbox/delivery.hpp"

using pillion::isUtf8Text;
using pillion::inbox::BatchStopped;
using pillion::inbox::errorLine;
using pillion::inbox::HandlerFailed;

TEST_CASE("an error's line is its first, as UTF-8 without control characters") {
  CHECK(errorLine("no stock") == "no stock");
  CHECK(errorLine("first\nsecond") == "first");
  CHECK(errorLine("") == "");
  CHECK(errorLine("price in \xe2\x82\xac") == "price in \xe2\x82\xac");
  CHECK(errorLine("unknown product \xe9!") == "unknown product ?!");
  CHECK(errorLine("cut \xe2\x82") == "cut ??");
  CHECK(errorLine("over \xc0\xaf long, half \xed\xa0\x80") == "over ?? long, half ???");
  CHECK(errorLine(std::string("a\0b\tc\x1b[31m\x7f", 11)) == "a b c [31m ");
}

TEST_CASE("an error's line ends after a thousand bytes, and not inside a character") {
  CHECK(errorLine(std::string(5'000, 'x')).size() == 1'000);
  std::string euros;
  for (int i = 0; i < 500; ++i) euros += "\xe2\x82\xac";
  CHECK(errorLine(euros).size() == 999);
  CHECK(isUtf8Text(errorLine(euros)));
}

TEST_CASE("whatever reports a failure reports a line that can be stored") {
  const std::string bad = "bad \xff\nand more";
  CHECK(HandlerFailed({bad, ""}).failure().error == "bad ?");
  CHECK(BatchStopped(0, {bad, "invalid-event"}, false).failure().error == "bad ?");
}
