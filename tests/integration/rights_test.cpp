#define PILLION_TEST_MAIN
#include <fstream>
#include <sstream>

#include "fixture.hpp"

// The grants in the manual are enough, each role alone.

using namespace pillion;
using namespace pillion::test;

namespace {

/// The block of SQL in docs/operating.md that grants.
std::string grantsOfTheManual() {
  std::ifstream file(PILLION_SOURCE_DIR "/docs/operating.md");
  std::stringstream text;
  text << file.rdbuf();
  const std::string manual = text.str();
  const std::size_t begin = manual.find("GRANT USAGE ON SCHEMA pillion TO");
  REQUIRE(begin != std::string::npos);
  return manual.substr(begin, manual.find("```", begin) - begin);
}

DatabaseOptions as(const TestDatabase& database, const std::string& role) {
  return {.url = Servers::pg().urlAs(role, "secret", database.name()), .schema = "pillion"};
}

}  // namespace

TEST_CASE("publisher, relay, consumer and status work with the rights that the manual lists") {
  TestDatabase database;
  for (const std::string role : {"app_publisher", "app_relay", "app_consumer", "app_status"}) {
    database.execute("create role " + role + " login password 'secret'");
  }
  database.execute(grantsOfTheManual());
  database.execute("select pillion.enable_notify(true)");
  const std::string exchange = uniqueName("exchange");

  ConsumerOptions consumerOptions;
  consumerOptions.database = as(database, "app_consumer");
  consumerOptions.broker = brokerOptions(exchange);
  consumerOptions.retry = {.maxAttempts = 2, .first = 10ms, .factor = 1, .most = 10ms};
  const auto consumer = EventConsumer::create(uniqueName("rights"), {"#"}, consumerOptions);
  consumer->onEvent("#", [](const Event&, Transaction&) {});
  consumer->onEvent("failing", [](const Event&, Transaction&) { throw std::runtime_error("no"); });
  consumer->onEvent("rejected", [](const Event&, Transaction&) { throw RejectEvent("no"); });
  consumer->start();

  auto options = relayOptions(database, exchange);
  options.database = as(database, "app_relay");
  options.notify = true;
  const auto relay = Relay::create(options);
  relay->start();

  const auto publisher = EventPublisher::create("s", {.database = as(database, "app_publisher")});
  publisher->publish(Event("now", 1).setKey("k"));
  publisher->publish(Event("later", 2).setDeliverAt(std::chrono::system_clock::now() + 200ms));
  auto connection = pqxx::connection(as(database, "app_publisher").url);
  pqxx::work tx{connection};
  tx.exec("select pillion.publish('by.sql', '3', source => 's')");
  tx.commit();

  CHECK(eventually(20s, [&] { return consumer->stats().applied == 3; }));
  CHECK(eventually(10s, [&] { return readOutboxStatus(as(database, "app_status")).pending == 0; }));

  // A handler that fails needs more of them than one that does not.
  publisher->publish(Event("rejected", 1).setKey("k"));
  publisher->publish(Event("failing", 1).setKey("l"));
  CHECK(eventually(20s, [&] { return consumer->stats().deadLettered == 2; }));
  CHECK(eventually(20s, [&] { return readInboxStatus(as(database, "app_status")).empty(); }));
}
