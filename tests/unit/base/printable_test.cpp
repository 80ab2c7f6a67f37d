#include "base/printable.hpp"

#include <doctest/doctest.h>
#include <spdlog/sinks/ostream_sink.h>

#include <sstream>

#include "base/log_line.hpp"

using pillion::base::Lines;
using pillion::base::printable;

TEST_CASE("text that is printable stays as it is, in whatever script") {
  for (const std::string text : {"", "order.created", "price in \xe2\x82\xac", R"(a \x1b b)",
                                 "\xd7\xa9\xd7\x9c\xd7\x95\xd7\x9d", "\xf0\x9f\x9a\x80"}) {
    CHECK(printable(text) == text);
  }
}

TEST_CASE("control characters of all kinds are shown by their number") {
  CHECK(printable(std::string("\0\x01\x7f", 3)) == R"(\x00\x01\x7f)");
  CHECK(printable("a\r\nb\tc") == R"(a\x0d\x0ab\x09c)");
  CHECK(printable("\x1b[31mred") == R"(\x1b[31mred)");
  CHECK(printable("\xc2\x9b"
                  "31m") == R"(\x9b31m)");  // C1: ESC [ in one character
  CHECK(printable("\xc2\xa0") == "\xc2\xa0");
}

TEST_CASE("what ends lines or turns the direction of writing is shown by its number") {
  CHECK(printable("a\xe2\x80\xa8"
                  "b\xe2\x80\xa9") == R"(a\u2028b\u2029)");
  CHECK(printable("invoice\xe2\x80\xae"
                  "fdp.exe") == R"(invoice\u202efdp.exe)");
  CHECK(printable("\xe2\x81\xa6\xd8\x9c\xe2\x80\x8f") == R"(\u2066\u061c\u200f)");
}

TEST_CASE("bytes that are no UTF-8 are shown one by one, and what is beside them stays") {
  CHECK(printable("caf\xe9 \xe2\x82\xac") == "caf\\xe9 \xe2\x82\xac");
  CHECK(printable("cut \xe2\x82") == R"(cut \xe2\x82)");
  CHECK(printable("\xc0\xaf\xed\xa0\x80\xf5\xff") == R"(\xc0\xaf\xed\xa0\x80\xf5\xff)");
}

TEST_CASE("lines and tabs stay where a text is shown as such, and nothing else") {
  CHECK(printable("a\n\tb\r\x1b", std::string::npos, Lines::Kept) == "a\n\tb\\x0d\\x1b");
}

TEST_CASE("a cut is never inside of a character or of what stands for one") {
  CHECK(printable("\xe2\x82\xac\xe2\x82\xac", 5) == "\xe2\x82\xac");
  CHECK(printable("ab\x1b", 5) == "ab");
  CHECK(printable("ab\x1b", 6) == R"(ab\x1b)");
}

TEST_CASE("a quotation is short, and tells how much there was") {
  CHECK(pillion::base::quoted("") == "''");
  CHECK(pillion::base::quoted("order-17") == "'order-17'");
  CHECK(pillion::base::quoted(std::string(60, 'x')) == "'" + std::string(60, 'x') + "'");
  CHECK(pillion::base::quoted(std::string(255, 'x')) ==
        "'" + std::string(60, 'x') + "...' (255 bytes)");
  std::string euros;
  for (int i = 0; i < 40; ++i) euros += "\xe2\x82\xac";
  CHECK(pillion::base::quoted("x" + euros) == "'x" + euros.substr(0, 57) + "...' (121 bytes)");
}

TEST_CASE("a log line is one line, whatever the values in it are") {
  std::ostringstream out;
  const auto sink = std::make_shared<spdlog::sinks::ostream_sink_mt>(out);
  const auto logger = std::make_shared<spdlog::logger>("test", sink);
  logger->set_pattern("%l %v");
  pillion::useLogger(logger);
  pillion::base::log.warn("events of type '{}' {}", std::string("a\nb\x1b[2J"), 7);
  pillion::base::log.debug("not at this level {}", 1);
  pillion::base::log.info("{{}} {}", "{}");
  pillion::useLogger(nullptr);
  CHECK(out.str() == "warning events of type 'a\\x0ab\\x1b[2J' 7\ninfo {} {}\n");
}
