#include "fixture.hpp"

#include <atomic>
#include <future>

namespace pillion::test {
namespace {

std::unique_ptr<Servers>& holder() {
  static std::unique_ptr<Servers> servers;
  return servers;
}

std::unique_ptr<Servers> startServers() {
  auto servers = std::make_unique<Servers>();
  auto rabbit = std::async(std::launch::async, [&] {
    return std::make_unique<support::RabbitServer>(servers->directory / "rabbit");
  });
  servers->postgres = std::make_unique<support::PostgresServer>(servers->directory / "postgres");
  servers->rabbit = rabbit.get();
  return servers;
}

}  // namespace

Servers& Servers::instance() {
  if (!holder()) holder() = startServers();
  return *holder();
}

void Servers::startWithoutRabbit() {
  if (holder()) return;
  holder() = std::make_unique<Servers>();
  holder()->postgres = std::make_unique<support::PostgresServer>(holder()->directory / "postgres");
}

void Servers::shutDown() {
  holder().reset();
}

std::string uniqueName(const std::string& prefix) {
  static std::atomic<int> counter{0};
  return prefix + "-" + std::to_string(++counter);
}

TestDatabase::TestDatabase(const std::string& schema, bool migrated)
    : name_(uniqueName("db")), schema_(schema) {
  Servers::pg().createDatabase(name_);
  if (migrated) Migrator(options()).migrate();
}

BrokerOptions brokerOptions(const std::string& exchange) {
  return brokerOptionsAt(Servers::mq(), exchange);
}

BrokerOptions brokerOptionsAt(const support::RabbitServer& broker, const std::string& exchange) {
  BrokerOptions options;
  options.url = broker.url();
  options.exchange = exchange;
  options.reconnectFirst = 50ms;
  options.reconnectMost = 500ms;
  return options;
}

RelayOptions relayOptions(const DatabaseOptions& database, const std::string& exchange) {
  RelayOptions options;
  options.database = database;
  options.broker = brokerOptions(exchange);
  options.name = "test relay";
  options.probeFirst = 50ms;
  options.probeMost = 200ms;
  return options;
}

RelayOptions relayOptions(const TestDatabase& database, const std::string& exchange) {
  return relayOptions(database.options(), exchange);
}

TestQueue::TestQueue(const std::string& exchange, const std::string& pattern)
    : name_(uniqueName("queue")),
      connection_(std::make_unique<amqp::Connection>(brokerOptions(exchange), "test")) {
  if (!connection_->exchangeExists(exchange)) connection_->declareTopicExchange(exchange);
  connection_->declareQueue({.name = name_,
                             .exclusive = false,
                             .textArguments = {{"x-queue-type", "quorum"}},
                             .numberArguments = {}});
  connection_->bindQueue(name_, exchange, pattern);
  connection_->consume(name_, 1000);
}

std::vector<amqp::Message> TestQueue::read(std::size_t count, std::chrono::milliseconds limit) {
  std::vector<amqp::Message> messages;
  const auto end = std::chrono::steady_clock::now() + limit;
  while (messages.size() < count && std::chrono::steady_clock::now() < end) {
    auto incoming = connection_->receive(100ms);
    if (!incoming) continue;
    if (auto* delivery = std::get_if<amqp::Delivery>(&*incoming)) {
      connection_->ack(*delivery);
      messages.push_back(std::move(delivery->message));
    }
    if (const auto* ended = std::get_if<amqp::ConsumerEnded>(&*incoming)) amqp::throwEnded(*ended);
  }
  return messages;
}

std::vector<amqp::Message> TestQueue::readFor(std::chrono::milliseconds time) {
  return read(static_cast<std::size_t>(-1), time);
}

std::map<std::string, std::string> environmentFor(const TestDatabase& database,
                                                  const std::string& exchange) {
  return {{"PILLION_DATABASE_URL", database.url()},
          {"PILLION_SCHEMA", database.options().schema},
          {"PILLION_AMQP_URL", Servers::mq().url()},
          {"PILLION_EXCHANGE", exchange}};
}

support::Process startRelayProcess(const TestDatabase& database, const std::string& exchange,
                                   const std::string& failpoints,
                                   const std::vector<std::string>& arguments) {
  support::ProcessOptions options;
  options.command = {PILLION_PROGRAM, "relay"};
  options.command.insert(options.command.end(), arguments.begin(), arguments.end());
  options.environment = environmentFor(database, exchange);
  options.environment["PILLION_FAILPOINTS"] = failpoints;
  options.output = Servers::instance().directory / (uniqueName("relay") + ".log");
  return support::Process(options);
}

std::map<std::string, int> lanesPerHolder(const TestDatabase& database) {
  std::map<std::string, int> lanes;
  for (const auto& lane : readOutboxStatus(database.options()).lanes) ++lanes[lane.holder];
  return lanes;
}

bool taken(outbox::EventLog& log, const outbox::Checkpoint& checkpoint) {
  try {
    log.checkpoint(checkpoint);
    return true;
  } catch (const outbox::LeaseLost&) {
    return false;
  }
}

bool drained(const TestDatabase& database) {
  const OutboxStatus status = readOutboxStatus(database.options());
  return status.pending == 0 && status.parked == 0;
}

}  // namespace pillion::test
