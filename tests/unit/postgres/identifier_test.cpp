#include "postgres/identifier.hpp"

#include <doctest/doctest.h>

#include <pillion/error.hpp>

#include "support/thrown.hpp"

using pillion::ConfigError;
using pillion::postgres::inSchema;
using pillion::postgres::quoteIdentifier;

TEST_CASE("a name is quoted, and quotes in it are doubled") {
  CHECK(quoteIdentifier("pillion") == R"("pillion")");
  CHECK(quoteIdentifier("My Schema") == R"("My Schema")");
  CHECK(quoteIdentifier(R"(a"b)") == R"("a""b")");
  CHECK(quoteIdentifier(R"("""")") == R"("""""""""")");
  CHECK(quoteIdentifier(R"(a'b\c$d)") == R"("a'b\c$d")");
}

TEST_CASE("a name cannot end the identifier it is put into") {
  CHECK(quoteIdentifier(R"(x"; drop schema public; --)") == R"("x""; drop schema public; --")");
}

TEST_CASE("a name has 1 to 63 bytes and no NUL") {
  CHECK(quoteIdentifier(std::string(63, 'n')).size() == 65);
  CHECK(quoteIdentifier(std::string(63, '"')).size() == 128);
  const auto text =
      pillion::test::textThrown<ConfigError>([] { quoteIdentifier(std::string(64, 'n')); });
  CHECK(pillion::test::has(text, "64"));
  CHECK(pillion::test::has(text, "PILLION_SCHEMA"));
  CHECK_THROWS_AS(quoteIdentifier(""), ConfigError);
  CHECK_THROWS_AS(quoteIdentifier(std::string_view("a\0b", 3)), ConfigError);
}

TEST_CASE("every {schema} of a statement becomes the quoted name") {
  CHECK(inSchema("select 1 from {schema}.a, {schema}.b", "s") == R"(select 1 from "s".a, "s".b)");
  CHECK(inSchema("{schema}", "s") == R"("s")");
  CHECK(inSchema("select 1", "s") == "select 1");
  CHECK(inSchema("{schem} {schema", "s") == "{schem} {schema");
}

TEST_CASE("a schema that is called {schema} is not replaced again") {
  CHECK(inSchema("{schema}.a {schema}.b", "{schema}") == R"("{schema}".a "{schema}".b)");
}

TEST_CASE("a bad name is refused even where the statement has no place for it") {
  CHECK_THROWS_AS(inSchema("select 1", ""), ConfigError);
}
