#include <algorithm>
#include <pillion/migrator.hpp>

#include <doctest/doctest.h>

#include <pillion/error.hpp>
#include <set>

#include "support/thrown.hpp"

using pillion::ConfigError;
using pillion::DatabaseOptions;
using pillion::Migrator;
using pillion::test::has;

namespace {

DatabaseOptions inSchema(const std::string& schema) {
  DatabaseOptions options;
  options.schema = schema;
  return options;
}

}  // namespace

TEST_CASE("the migrations are numbered from 1 without gaps, named, and each has its checksum") {
  const auto& known = Migrator::known();
  REQUIRE(known.size() >= 2);
  std::set<std::string> checksums;
  for (std::size_t i = 0; i < known.size(); ++i) {
    CHECK(known[i].version == static_cast<int>(i) + 1);
    CHECK_FALSE(known[i].name.empty());
    CHECK(known[i].checksum.size() == 16);
    CHECK(known[i].checksum.find_first_not_of("0123456789abcdef") == std::string::npos);
    CHECK_FALSE(known[i].sql.empty());
    checksums.insert(known[i].checksum);
  }
  CHECK(checksums.size() == known.size());
}

TEST_CASE("the migrations are ASCII, so that a database of any encoding takes them") {
  for (const auto& migration : Migrator::known()) {
    CAPTURE(migration.name);
    CHECK(std::ranges::all_of(migration.sql, [](char c) { return c > 0; }));
  }
}

TEST_CASE("the script holds every migration whole, in one transaction, and records each") {
  const std::string script = Migrator(inSchema("my schema")).script();
  CHECK(script.starts_with("begin;\n"));
  CHECK(script.ends_with("commit;\n"));
  std::size_t at = 0;
  for (const auto& migration : Migrator::known()) {
    at = script.find(migration.sql, at);
    CHECK(at != std::string::npos);
    CHECK(has(script, "'" + migration.checksum + "'"));
  }
  CHECK(has(script, R"(create schema if not exists "my schema")"));
}

TEST_CASE("a schema's name cannot leave its quotes in the script") {
  const std::string script = Migrator(inSchema(R"(x"; drop table t; --)")).script();
  CHECK(has(script, R"("x""; drop table t; --")"));
  CHECK_FALSE(has(script, R"( "x"; drop table t)"));
}

TEST_CASE("a schema name that PostgreSQL would cut is refused before anything is connected to") {
  CHECK_NOTHROW(Migrator(inSchema(std::string(63, 's'))));
  CHECK_THROWS_AS(Migrator(inSchema(std::string(64, 's'))), ConfigError);
}
