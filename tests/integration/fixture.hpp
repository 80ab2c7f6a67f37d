#pragma once

#include <amqp/connection.hpp>
#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <outbox/event_log.hpp>
#include <pillion/pillion.hpp>
#include <string>
#include <vector>

#include "support/eventually.hpp"
#include "support/postgres_server.hpp"
#include "support/process.hpp"
#include "support/rabbit_server.hpp"
#include "support/temporary_directory.hpp"

// What every integration test starts from. One include brings doctest's main when
// PILLION_TEST_MAIN is defined first.

namespace pillion::test {

using namespace std::chrono_literals;
using support::eventually;
using support::holdsFor;

/// The two servers of this program, started when first asked for and stopped at its end.
struct Servers {
  support::TemporaryDirectory directory;
  std::unique_ptr<support::PostgresServer> postgres;
  std::unique_ptr<support::RabbitServer> rabbit;

  static Servers& instance();
  /// PostgreSQL alone, for a program that has brokers of its own: to be called before the others.
  static void startWithoutRabbit();
  static support::PostgresServer& pg() { return *instance().postgres; }
  static support::RabbitServer& mq() { return *instance().rabbit; }
  /// Ends both; called by the test program's main after the last test.
  static void shutDown();
};

/// A policy for all queues, or those of this pattern, while this lives; `kind`: "policy", or
/// "operator_policy".
class Policy {
 public:
  explicit Policy(const std::string& definition, std::string kind = "policy",
                  const std::string& pattern = ".*")
      : kind_(std::move(kind)) {
    Servers::mq().ctl({"set_" + kind_, "all", pattern, definition, "--apply-to", "queues"});
  }
  ~Policy() { Servers::mq().ctl({"clear_" + kind_, "all"}); }
  Policy(const Policy&) = delete;
  Policy& operator=(const Policy&) = delete;

 private:
  std::string kind_;
};

/// The broker blocks publishers while this lives, and no longer when a check throws.
class MemoryAlarm {
 public:
  MemoryAlarm() { Servers::mq().setMemoryAlarm(true); }
  ~MemoryAlarm() { Servers::mq().setMemoryAlarm(false); }
  MemoryAlarm(const MemoryAlarm&) = delete;
  MemoryAlarm& operator=(const MemoryAlarm&) = delete;
};

/// "prefix-1", "prefix-2", …: never the same twice in a program.
std::string uniqueName(const std::string& prefix);

/// A new database with the schema in it.
class TestDatabase {
 public:
  explicit TestDatabase(const std::string& schema = "pillion", bool migrated = true);

  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] std::string url() const { return Servers::pg().url(name_); }
  [[nodiscard]] DatabaseOptions options() const { return {.url = url(), .schema = schema_}; }
  [[nodiscard]] pqxx::connection connect() const { return pqxx::connection(url()); }
  void execute(const std::string& sql) const { Servers::pg().execute(name_, sql); }
  [[nodiscard]] std::string query(const std::string& sql) const {
    return Servers::pg().query(name_, sql);
  }
  [[nodiscard]] long count(const std::string& sql) const { return std::stol(query(sql)); }

 private:
  std::string name_;
  std::string schema_;
};

/// Quick to reconnect, so that tests are.
BrokerOptions brokerOptions(const std::string& exchange);
BrokerOptions brokerOptionsAt(const support::RabbitServer& broker, const std::string& exchange);

/// Relay options for this database and exchange, with quick retries.
RelayOptions relayOptions(const DatabaseOptions& database, const std::string& exchange);
RelayOptions relayOptions(const TestDatabase& database, const std::string& exchange);

/// The largest message that the broker takes, as an operator might set it. The server is the whole
/// program's, so it is set back.
class MessageLimit {
 public:
  static constexpr int kMost = 134'217'728;

  explicit MessageLimit(int bytes) { set(bytes); }
  ~MessageLimit() { set(kMost); }
  MessageLimit(const MessageLimit&) = delete;
  MessageLimit& operator=(const MessageLimit&) = delete;
  static void set(int bytes) {
    const std::string text = std::to_string(bytes);
    Servers::mq().eval("application:set_env(rabbit, max_message_size, " + text + ")");  // to 3.13
    Servers::mq().eval("persistent_term:put(max_message_size, " + text + ")");          // from 4.0
  }
};

/// A durable queue bound to the exchange, read by the test itself.
class TestQueue {
 public:
  TestQueue(const std::string& exchange, const std::string& pattern = "#");

  [[nodiscard]] const std::string& name() const { return name_; }
  /// Reads until `count` messages are there or the limit has passed; acks what it returns.
  std::vector<amqp::Message> read(std::size_t count, std::chrono::milliseconds limit = 20s);
  /// Whatever comes within the time.
  std::vector<amqp::Message> readFor(std::chrono::milliseconds time);

 private:
  std::string name_;
  std::unique_ptr<amqp::Connection> connection_;
};

/// An outbox, the exchange that its events are for, and a service that writes them.
struct TestOutbox {
  TestDatabase database;
  std::string exchange = uniqueName("exchange");
  std::unique_ptr<EventPublisher> publisher =
      EventPublisher::create("test-service", {.database = database.options()});
};

/// The same with a queue that sees everything, and a relay that is not started yet.
struct RelayedOutbox : TestOutbox {
  TestQueue queue{exchange};
  std::unique_ptr<Relay> relay = Relay::create(relayOptions(database, exchange));
};

/// The program `pillion` as a process of its own.
support::Process startRelayProcess(const TestDatabase& database, const std::string& exchange,
                                   const std::string& failpoints = "",
                                   const std::vector<std::string>& arguments = {});

/// Environment with which a child finds this database and the broker.
std::map<std::string, std::string> environmentFor(const TestDatabase& database,
                                                  const std::string& exchange);

/// Who has how many lanes; "" for free ones.
std::map<std::string, int> lanesPerHolder(const TestDatabase& database);

/// Did the log take the checkpoint? Not when its lease is lost.
bool taken(outbox::EventLog& log, const outbox::Checkpoint& checkpoint);

/// Nothing pending and nothing parked, by the outbox's own tables.
bool drained(const TestDatabase& database);

}  // namespace pillion::test

#ifdef PILLION_TEST_MAIN
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>
int main(int argc, char** argv) {
  const int status = doctest::Context(argc, argv).run();
  pillion::test::Servers::shutDown();
  return status;
}
#else
#include <doctest/doctest.h>
#endif
