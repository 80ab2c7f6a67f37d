#include <pillion/consumer.hpp>

#include <doctest/doctest.h>

#include <functional>
#include <pillion/error.hpp>

#include "support/thrown.hpp"

using namespace pillion;

namespace {

void checkRefused(const char* part, const std::function<void(ConsumerOptions&)>& change) {
  CAPTURE(std::string(part));
  ConsumerOptions options;
  change(options);
  const auto text =
      test::textThrown<ConfigError>([&] { EventConsumer::create("service", {"a.*"}, options); });
  CHECK(test::has(text, part));
}

}  // namespace

TEST_CASE("the queue is named after service and subscription, or as it is told") {
  CHECK(EventConsumer::create("inventory", {"#"})->queue() == "inventory.events");
  ConsumerOptions options;
  options.subscription = "prices";
  CHECK(EventConsumer::create("inventory", {"#"}, options)->queue() == "inventory.prices");
  options.queue = "whole-name";
  CHECK(EventConsumer::create("inventory", {"#"}, options)->queue() == "whole-name");
}

TEST_CASE("a queue's name has 1 to 250 bytes, so that its dead-letter queue has a name too") {
  ConsumerOptions options;
  options.queue = std::string(250, 'q');
  CHECK_NOTHROW(EventConsumer::create("s", {"#"}, options));
  options.queue += 'q';
  CHECK_THROWS_AS(EventConsumer::create("s", {"#"}, options), ConfigError);
}

TEST_CASE("a consumer needs patterns of 1 to 255 bytes") {
  CHECK_THROWS_AS(EventConsumer::create("s", {}), ConfigError);
  CHECK_THROWS_AS(EventConsumer::create("s", {"a", ""}), ConfigError);
  CHECK_NOTHROW(EventConsumer::create("s", {std::string(255, 'p')}));
  CHECK_THROWS_AS(EventConsumer::create("s", {std::string(256, 'p')}), ConfigError);
}

TEST_CASE("consumer options that cannot work are refused by name") {
  using std::chrono::hours;
  checkRefused("prefetch", [](ConsumerOptions& o) { o.prefetch = 0; });
  checkRefused("deliveryLimit", [](ConsumerOptions& o) { o.deliveryLimit = 0; });
  checkRefused("maxAttempts", [](ConsumerOptions& o) { o.retry.maxAttempts = 0; });
  checkRefused("dedupeWindow", [](ConsumerOptions& o) { o.dedupeWindow = hours(23); });
  checkRefused("dedupeWindow", [](ConsumerOptions& o) { o.dedupeWindow = hours(481); });
  checkRefused("schema", [](ConsumerOptions& o) { o.database.schema = std::string(64, 's'); });
  ConsumerOptions options;
  options.dedupeWindow = hours(24);
  CHECK_NOTHROW(EventConsumer::create("s", {"#"}, options));
  options.dedupeWindow = hours(480);
  CHECK_NOTHROW(EventConsumer::create("s", {"#"}, options));
}

TEST_CASE("handlers with and without a transaction are taken, and nothing is delivered unstarted") {
  const auto consumer = EventConsumer::create("s", {"#"});
  int calls = 0;
  consumer->onEvent("a", [&](const Event&) { ++calls; });
  consumer->onEvent("b", [&](const Event&, Transaction&) { ++calls; });
  consumer->stop();
  CHECK(calls == 0);
  CHECK(consumer->stats().delivered == 0);
}
