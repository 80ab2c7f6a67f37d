#include <pillion/relay.hpp>

#include <doctest/doctest.h>

#include <functional>
#include <pillion/error.hpp>

#include "support/thrown.hpp"

using namespace std::chrono_literals;
using pillion::ConfigError;
using pillion::Relay;
using pillion::RelayOptions;

namespace {

void checkRefused(const char* field, const std::function<void(RelayOptions&)>& change) {
  CAPTURE(std::string(field));
  RelayOptions options;
  change(options);
  const auto text = pillion::test::textThrown<ConfigError>([&] { Relay::create(options); });
  CHECK(pillion::test::has(text, field));
}

}  // namespace

TEST_CASE("a relay with default options is created without a server") {
  const auto relay = Relay::create();
  CHECK(relay->stats().published == 0);
  relay->wake();
  relay->stop();
  relay->stop();
}

TEST_CASE("relay options that cannot work are refused by name") {
  checkRefused("windowEvents", [](RelayOptions& o) { o.windowEvents = 0; });
  checkRefused("windowBytes", [](RelayOptions& o) { o.windowBytes = 0; });
  checkRefused("pageEvents", [](RelayOptions& o) { o.pageEvents = 0; });
  checkRefused("pageBytes", [](RelayOptions& o) { o.pageBytes = 0; });
  checkRefused("pollFirst", [](RelayOptions& o) { o.pollFirst = 0ms; });
  checkRefused("checkpointEvery", [](RelayOptions& o) { o.checkpointEvery = 0ms; });
  checkRefused("renewEvery", [](RelayOptions& o) { o.renewEvery = 0ms; });
  checkRefused("lease", [](RelayOptions& o) { o.lease = 2'999ms; });
  checkRefused("lease", [](RelayOptions& o) { o.renewEvery = 5'001ms; });
  checkRefused("schema", [](RelayOptions& o) { o.database.schema = std::string(64, 's'); });
}

TEST_CASE("the shortest lease is three seconds and three renewals") {
  RelayOptions options;
  options.lease = 3'000ms;
  options.renewEvery = 1'000ms;
  CHECK_NOTHROW(Relay::create(options));
}

TEST_CASE("broker options that would spin or end every connection are refused by name") {
  checkRefused("heartbeat", [](RelayOptions& o) { o.broker.heartbeat = 0s; });
  checkRefused("stallTimeout", [](RelayOptions& o) { o.broker.stallTimeout = 0ms; });
  checkRefused("reconnectFirst", [](RelayOptions& o) { o.broker.reconnectFirst = 0ms; });
  checkRefused("probeFirst", [](RelayOptions& o) { o.probeFirst = 0ms; });
}
