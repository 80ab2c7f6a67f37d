#include "inbox/error_line.hpp"

#include <doctest/doctest.h>

#include "event/event_check.hpp"
#include "inbox/delivery.hpp"

using pillion::isUtf8Text;
using pillion::inbox::Attempt;
using pillion::inbox::errorLine;
using pillion::inbox::HandlerFailed;

TEST_CASE("an error's line is its first, and printable") {
  CHECK(errorLine("no stock") == "no stock");
  CHECK(errorLine("first\nsecond") == "first");
  CHECK(errorLine("first\r\nsecond") == "first");
  CHECK(errorLine("") == "");
  CHECK(errorLine("price in \xe2\x82\xac") == "price in \xe2\x82\xac");
  CHECK(errorLine("unknown product \xe9!") == R"(unknown product \xe9!)");
  CHECK(errorLine("cut \xe2\x82") == R"(cut \xe2\x82)");
  CHECK(errorLine("over \xc0\xaf long, half \xed\xa0\x80") ==
        R"(over \xc0\xaf long, half \xed\xa0\x80)");
  CHECK(errorLine(std::string("a\0b\tc\x1b[31m\x7f", 11)) == R"(a\x00b\x09c\x1b[31m\x7f)");
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
  CHECK(HandlerFailed({bad, ""}).failure().error == R"(bad \xff)");
  CHECK(Attempt::stopped(0, {bad, "invalid-event"}).failure.error == R"(bad \xff)");
}
