#include "postgres/statement.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <pillion/error.hpp>

#include "outbox/row_columns.hpp"
#include "postgres/array.hpp"
#include "support/result_of.hpp"

using namespace pillion::postgres;
using pillion::test::resultOf;

namespace {

std::string decoded(const std::string& text) {
  const auto result = resultOf({text});
  return bytesOf(result[0][0]);
}

}  // namespace

TEST_CASE("bytea in hex format is decoded, whatever the case of its digits") {
  CHECK(decoded("\\x").empty());
  CHECK(decoded("\\x48656c6C6F") == "Hello");
  CHECK(decoded("\\x00ff7F80") == std::string("\x00\xff\x7f\x80", 4));
}

TEST_CASE("all 256 bytes come through bytea") {
  std::string hex = "\\x";
  std::string bytes;
  for (int i = 0; i < 256; ++i) {
    constexpr const char* kDigits = "0123456789abcdef";
    hex += kDigits[i / 16];
    hex += kDigits[i % 16];
    bytes += static_cast<char>(i);
  }
  CHECK(decoded(hex) == bytes);
}

TEST_CASE("bytea in another format than hex is an error that says what to set") {
  for (const std::string text : {"", "\\", "Hello", "\\x4", "\\\\x41", "\\000"}) {
    CAPTURE(text);
    CHECK_THROWS_WITH_AS(decoded(text),
                         "bytea in another output format than hex; set bytea_output = hex",
                         pillion::Error);
  }
}

TEST_CASE("NULL is an empty text, and integers keep all their 64 bits") {
  const auto result = resultOf({std::nullopt, "text", "9223372036854775807", "-1", ""});
  CHECK(textOf(result[0][0]).empty());
  CHECK(textOf(result[0][1]) == "text");
  CHECK(integerOf(result[0][2]) == 9223372036854775807);
  CHECK(integerOf(result[0][3]) == -1);
}

TEST_CASE("parameters keep their order and their bytes") {
  Parameters parameters{"a", ""};
  parameters.add(std::string_view("\0b", 2));
  CHECK(parameters.values() == std::vector<std::string>{"a", "", std::string("\0b", 2)});
}

TEST_CASE("an array's texts may be made while it is written, of any length, with any letter") {
  const std::vector<std::string> texts{std::string(100, 'a'), "", R"(a"b\c)", "{,}"};
  const auto array = pillion::postgres::arrayOf(texts, [](std::string text) { return text; });
  CHECK(array == "{\"" + std::string(100, 'a') + R"(","","a\"b\\c","{,}"})");
}

TEST_CASE("a time is microseconds since 2000, also before that and below a microsecond") {
  Parameters parameters;
  const auto epoch = std::chrono::sys_days(std::chrono::year(2000) / 1 / 1);
  parameters.addTime(epoch);
  parameters.addTime(epoch - std::chrono::nanoseconds(1));
  CHECK(parameters.values() ==
        std::vector<std::string>{std::string(8, '\0'), std::string(8, '\xff')});
}

TEST_CASE("a row's columns are read in the order in which they are asked for") {
  const auto result =
      resultOf({"skipped", "7", "63", "id", "type", "source", "key", "time", "ct", "corr", "cause",
                "parent", "state", "expires", R"({"a":"b"})", "\\x6869"});
  const auto row = pillion::outbox::rowFrom(result[0], 1);
  CHECK(row.id == 7);
  CHECK(row.lane == 63);
  CHECK(row.eventId == "id");
  CHECK(row.type == "type");
  CHECK(row.source == "source");
  CHECK(row.key == "key");
  CHECK(row.time == "time");
  CHECK(row.contentType == "ct");
  CHECK(row.correlationId == "corr");
  CHECK(row.causationId == "cause");
  CHECK(row.traceparent == "parent");
  CHECK(row.tracestate == "state");
  CHECK(row.expiresAt == "expires");
  CHECK(row.headers == R"({"a":"b"})");
  CHECK(row.payload == "hi");
}

TEST_CASE("the columns that are asked for are as many as a row has fields") {
  // A comma inside parentheses separates arguments, not columns.
  int depth = 0;
  int columns = 1;
  for (const char c : std::string(pillion::outbox::kRowColumns)) {
    if (c == '(') ++depth;
    if (c == ')') --depth;
    if (c == ',' && depth == 0) ++columns;
  }
  CHECK(columns == 15);
}
