// One queue, one inbox: two databases that share a queue would each apply a part.
#define PILLION_TEST_MAIN
#include <string>

#include "consumer_fixture.hpp"

namespace pillion::test {
namespace {

/// A consumer of `world`'s queue on another database, or schema.
ConsumerOptions elsewhere(const World& world, const TestDatabase& database, int partitions = 0) {
  auto options = world.consumerOptions();
  options.database = database.options();
  options.partitions = partitions;
  options.bindEvery = 100ms;
  database.execute(
      "create table if not exists journal (position bigserial, event_id uuid, key text, number int,"
      " note text)");
  return options;
}

std::string refusalOf(const ConsumerOptions& options, const std::string& service) {
  try {
    journalConsumer(options, service)->start();
    return "";
  } catch (const ConfigError& error) {
    return error.what();
  }
}

}  // namespace

TEST_CASE(
    "a queue that another database consumes is refused, with both named, and changes nothing") {
  for (const int partitions : {0, 2}) {
    CAPTURE(partitions);
    const World world;
    auto options = world.consumerOptions();
    options.partitions = partitions;
    const auto consumer = journalConsumer(options, "audit");
    consumer->start();
    const TestDatabase other;
    const std::string refusal = refusalOf(elsewhere(world, other, partitions), "audit");
    CAPTURE(refusal);
    CHECK(refusal.find("'audit.events' is another inbox's") != std::string::npos);
    CHECK(refusal.find("current is '" + world.database.name() + ".pillion.") != std::string::npos);
    CHECK(refusal.find("this one is '" + other.name() + ".pillion.") != std::string::npos);
    CHECK(refusal.find("pillion adopt --queue audit.events") != std::string::npos);
    send(world.exchange, numberedEvents(20));
    CHECK(eventually(20s, [&] { return world.journal() == 20; }));
  }
}

TEST_CASE("another schema of the same database is another inbox") {
  const World world;
  const auto consumer = journalConsumer(world, "audit");
  consumer->start();
  auto options = world.consumerOptions();
  options.database.schema = "second";
  Migrator(options.database).migrate();
  CHECK(refusalOf(options, "audit").find(".second.") != std::string::npos);
}

TEST_CASE("several consumers of one database, and one that comes back, are not refused") {
  const World world;
  const auto first = journalConsumer(world, "audit");
  const auto second = journalConsumer(world, "audit");
  const auto third = journalConsumer(world, "billing");
  for (const auto& one : {&first, &second, &third}) (*one)->start();
  first->stop();
  first->start();
}

TEST_CASE("a queue that is adopted is let go of by who had it, and nothing is lost") {
  const World world;
  auto options = world.consumerOptions();
  options.bindEvery = 100ms;
  const LogCapture log;
  const auto before = journalConsumer(options, "moved");
  before->start();
  send(world.exchange, numberedEvents(10));
  REQUIRE(eventually(20s, [&] { return world.journal() == 10; }));
  const TestDatabase other;
  const auto moved = elsewhere(world, other);
  adoptQueue(other.options(), options.broker, "moved.events");
  adoptQueue(other.options(), options.broker, "moved.events");  // twice is once
  CHECK(eventually(20s, [&] { return log.count("waits: queue 'moved.events' is another") > 0; }));
  const auto after = journalConsumer(moved, "moved");
  after->start();
  send(world.exchange, numberedEvents(10));
  CHECK(eventually(20s, [&] { return other.count("select count(*) from journal") == 10; }));
  CHECK(world.journal() == 10);
  CHECK_THROWS_AS(adoptQueue(other.options(), options.broker, ""), ConfigError);
}

TEST_CASE("a consumer that starts without its database waits for it before it takes anything") {
  const World world;
  declareOnly(world, "early");
  send(world.exchange, numberedEvents(5));
  Servers::pg().stop();
  const auto consumer = journalConsumer(world, "early");
  consumer->start();
  CHECK(consumer->stats().delivered == 0);
  Servers::pg().start();
  CHECK(eventually(20s, [&] { return world.journal() == 5; }));
}

}  // namespace pillion::test
