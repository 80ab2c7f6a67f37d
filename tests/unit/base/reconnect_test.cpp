#include "base/reconnect.hpp"

#include <doctest/doctest.h>
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>

#include <memory>
#include <pillion/log.hpp>
#include <sstream>

#include "support/manual_clock.hpp"

using namespace std::chrono_literals;
using pillion::BrokerError;
using pillion::base::Outage;
using pillion::base::Reconnect;
using pillion::test::ManualClock;

namespace {

/// What is logged, line by line without their times.
class Lines {
 public:
  Lines() {
    auto logger = std::make_shared<spdlog::logger>(
        "capture", std::make_shared<spdlog::sinks::ostream_sink_mt>(text_));
    logger->set_pattern("%v");
    pillion::useLogger(logger);
  }
  ~Lines() { pillion::useLogger(nullptr); }
  Lines(const Lines&) = delete;
  Lines& operator=(const Lines&) = delete;

  std::string take() {
    std::string lines = text_.str();
    text_.str("");
    return lines;
  }

 private:
  std::ostringstream text_;
};

struct Kept {
  Lines lines;
  ManualClock clock;
  Reconnect server{"r", 100ms, 10s, clock};
};

}  // namespace

TEST_CASE("a connection that breaks at once ends no outage and shortens no wait") {
  Kept kept;
  auto& [lines, clock, server] = kept;
  server.failed(BrokerError("away"));
  CHECK(lines.take() == "r waits: away\n");
  const auto since = server.awaySince();
  REQUIRE(since);
  auto longest = server.pause();
  for (int i = 0; i < 10; ++i) {
    server.connected();
    clock.advance(999ms);
    server.holds(false);
    server.failed(BrokerError("away again"));
    longest = std::max(longest, server.pause());
  }
  CHECK(lines.take().empty());
  CHECK(server.awaySince() == since);
  CHECK(longest > 5s);
}

TEST_CASE("a connection that was of use, or has lasted a second, is the end of the outage") {
  Kept kept;
  auto& [lines, clock, server] = kept;
  const auto breakFor = [&, server = &server] {
    for (int i = 0; i < 5; ++i) {
      server->failed(BrokerError("away"));
      (void)server->pause();
    }
    lines.take();
    server->connected();
  };
  breakFor();
  server.holds(true);
  CHECK(lines.take() == "r goes on\n");
  CHECK_FALSE(server.awaySince());
  CHECK(server.pause() <= 100ms);
  breakFor();
  clock.advance(1s);
  server.holds(false);
  CHECK(lines.take() == "r goes on\n");
  CHECK(server.pause() <= 100ms);
  server.holds(true);
  CHECK(lines.take().empty());
}

TEST_CASE("what passes soon is not said, and what lasts is looked into every few minutes only") {
  Lines lines;
  ManualClock clock;
  Outage outage("r", clock);
  CHECK_FALSE(outage.due(3s));
  clock.advance(2s);
  CHECK_FALSE(outage.due(3s));
  outage.ended();
  CHECK(lines.take().empty());
  clock.advance(2s);
  CHECK_FALSE(outage.due(3s));  // it begins anew
  clock.advance(3s);
  CHECK(outage.due(3s));
  outage.began(BrokerError("locked"));
  CHECK(lines.take() == "r waits: locked\n");
  CHECK_FALSE(outage.due(3s));
  clock.advance(5min);
  CHECK(outage.due(3s));
  outage.began(BrokerError("locked by another"));
  CHECK(lines.take() == "r still waits, for 5 minutes: locked by another\n");
  outage.ended();
  CHECK(lines.take() == "r goes on\n");
}
