#include <pillion/log.hpp>

#include <doctest/doctest.h>
#include <spdlog/sinks/null_sink.h>
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>

#include <pillion/error.hpp>
#include <sstream>

#include "base/outage.hpp"

namespace {

std::shared_ptr<spdlog::logger> silentLogger(const std::string& name) {
  return std::make_shared<spdlog::logger>(name, std::make_shared<spdlog::sinks::null_sink_mt>());
}

/// Each test begins and ends with nothing registered under our name.
struct CleanRegistry {
  CleanRegistry() { clean(); }
  ~CleanRegistry() { clean(); }
  static void clean() {
    pillion::useLogger(nullptr);
    spdlog::drop("pillion");
  }
};

}  // namespace

TEST_CASE("asking twice gives the same logger, registered under its name") {
  const CleanRegistry clean;
  const auto first = pillion::logger();
  REQUIRE(first != nullptr);
  CHECK(pillion::logger() == first);
  CHECK(first->name() == "pillion");
  CHECK(first->sinks().size() == 1);
}

TEST_CASE("a logger that the application registered as \"pillion\" is the one that is used") {
  const CleanRegistry clean;
  const auto theirs = silentLogger("pillion");
  spdlog::register_logger(theirs);
  CHECK(pillion::logger() == theirs);
  CHECK(pillion::logger() == theirs);
  CHECK(spdlog::get("pillion") == theirs);
}

TEST_CASE("a logger that the application registers later takes over from our own") {
  const CleanRegistry clean;
  const auto own = pillion::logger();
  spdlog::drop("pillion");
  CHECK(pillion::logger() == own);
  const auto theirs = silentLogger("pillion");
  spdlog::register_logger(theirs);
  CHECK(pillion::logger() == theirs);
}

TEST_CASE("the application's default logger is not touched") {
  const CleanRegistry clean;
  const auto before = spdlog::default_logger();
  const auto level = before->level();
  pillion::logger();
  pillion::useLogger(silentLogger("other"));
  pillion::logger();
  CHECK(spdlog::default_logger() == before);
  CHECK(before->level() == level);
}

TEST_CASE("useLogger wins over the registered one, and null returns to the rule") {
  const CleanRegistry clean;
  const auto registered = silentLogger("pillion");
  spdlog::register_logger(registered);
  const auto given = silentLogger("given");
  pillion::useLogger(given);
  CHECK(pillion::logger() == given);
  CHECK(spdlog::get("given") == nullptr);
  pillion::useLogger(nullptr);
  CHECK(pillion::logger() == registered);
}

TEST_CASE("an outage is one line when it begins and one when it ends, however often it is met") {
  const CleanRegistry clean;
  std::ostringstream lines;
  auto sink = std::make_shared<spdlog::sinks::ostream_sink_mt>(lines);
  auto logger = std::make_shared<spdlog::logger>("capture", sink);
  logger->set_pattern("%l %v");
  pillion::useLogger(logger);
  pillion::base::Outage outage("relay 'r'");
  outage.ended();
  for (int i = 0; i < 5; ++i) outage.began(pillion::BrokerError("RabbitMQ is away"));
  outage.ended();
  outage.ended();
  CHECK(lines.str() == "warning relay 'r' waits: RabbitMQ is away\ninfo relay 'r' goes on\n");
}
