// The small programs in examples/, run as they are against real servers and a real relay.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <future>
#include <memory>
#include <string>
#include <vector>

#include "support/postgres_server.hpp"
#include "support/process.hpp"
#include "support/rabbit_server.hpp"
#include "support/temporary_directory.hpp"

namespace {

using namespace pillion::support;

class Servers {
 public:
  Servers() {
    auto rabbit = std::async(std::launch::async, [this] {
      return std::make_unique<RabbitServer>(folder_ / "rabbitmq");
    });
    postgres_ = std::make_unique<PostgresServer>(folder_ / "postgresql");
    rabbit_ = rabbit.get();
  }

  RabbitServer& rabbit() { return *rabbit_; }
  void createDatabase(const std::string& name) { postgres_->createDatabase(name); }

  ProcessOptions process(const std::string& database, std::vector<std::string> command) {
    ProcessOptions options;
    options.command = std::move(command);
    options.withoutPrefixes = {"PILLION_", "PG"};
    options.environment = {{"PILLION_DATABASE_URL", postgres_->url(database)},
                           {"PILLION_AMQP_URL", rabbit_->url()}};
    return options;
  }

  // An example of the build tree, to its end.
  RunResult example(const std::string& database, const std::string& name,
                    const std::vector<std::string>& arguments = {}) {
    std::vector<std::string> command = {std::string(EXAMPLES) + "/" + name};
    command.insert(command.end(), arguments.begin(), arguments.end());
    return run(process(database, command));
  }

 private:
  TemporaryDirectory folder_;
  std::unique_ptr<PostgresServer> postgres_;
  std::unique_ptr<RabbitServer> rabbit_;
};

Servers& servers() {
  static Servers all;
  return all;
}

// A database of the test's own, migrated.
void prepareDatabase(const std::string& name) {
  servers().createDatabase(name);
  const auto migrated = run(servers().process(name, {PILLION_PROGRAM, "migrate"}));
  INFO(migrated.output);
  REQUIRE(migrated.status == 0);
}

Process startRelay(const std::string& database) {
  return Process(servers().process(database, {PILLION_PROGRAM, "relay"}));
}

}  // namespace

TEST_CASE("the sketch's lines work as they stand") {
  prepareDatabase("sketch");
  const auto relay = startRelay("sketch");
  const auto result = servers().example("sketch", "sketch", {"30"});
  INFO(result.output);
  CHECK(result.status == 0);
  CHECK(result.output.find("cached 2 events, stored 1 product") != std::string::npos);
}

TEST_CASE(
    "what was published in a committed transaction is consumed, what was rolled back is not") {
  prepareDatabase("payments");
  // The first run only makes the queue.
  const auto nothing = servers().example("payments", "consume", {"1", "0"});
  INFO(nothing.output);
  CHECK(nothing.status == 1);
  REQUIRE(servers().rabbit().queueExists("ledger-service.events"));

  const auto published = servers().example("payments", "publish", {"3"});
  INFO(published.output);
  CHECK(published.status == 0);
  CHECK(published.output.find("3 events wait for a relay") != std::string::npos);

  const auto relay = startRelay("payments");
  const auto consumed = servers().example("payments", "consume", {"3", "30"});
  INFO(consumed.output);
  CHECK(consumed.status == 0);
  CHECK(consumed.output.find("the ledger says 600 cents") != std::string::npos);
}

TEST_CASE("a service's own test runs its handlers without a broker") {
  servers().createDatabase("stock");
  const auto result = servers().example("stock", "test_handlers");
  INFO(result.output);
  CHECK(result.status == 0);
  CHECK(result.output.find("as expected: it names its cause") != std::string::npos);
}

TEST_CASE("a relay as a thread of the service delivers what the service commits") {
  prepareDatabase("ticks");
  const auto result = servers().example("ticks", "embedded_relay", {"5"});
  INFO(result.output);
  CHECK(result.status == 0);
  CHECK(result.output.find("tick 5 arrived") != std::string::npos);
}
