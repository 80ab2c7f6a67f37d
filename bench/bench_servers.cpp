#include "bench_servers.hpp"

#include "amqp/connection.hpp"

namespace pillion::bench {

DatabaseOptions BenchServers::database(const std::string& name) const {
  return {.url = postgres.url(name)};
}

BrokerOptions BenchServers::broker() const {
  BrokerOptions options;
  options.url = rabbit.url();
  options.exchange = kExchange;
  options.connectTimeout = std::chrono::minutes(1);  // a queue of millions is being deleted
  return options;
}

std::string BenchServers::createDatabase() {
  const std::string name = "bench_" + std::to_string(++databases_);
  postgres.createDatabase(name);
  Migrator(database(name)).migrate();
  return name;
}

void BenchServers::freshQueue() {
  if (!queue.empty()) rabbit.deleteQueue(queue);
  queue = "bench-" + std::to_string(++queues_);
  amqp::Connection connection(broker(), "bench");
  connection.declareTopicExchange(kExchange);
  connection.declareQueue({.name = queue,
                           .exclusive = false,
                           .textArguments = {{"x-queue-type", "quorum"}},
                           .numberArguments = {}});
  connection.bindQueue(queue, kExchange, "#");
}

support::Process BenchServers::startRelay(const std::string& database, const std::string& name,
                                          const std::string& exchange,
                                          const std::vector<std::string>& arguments) const {
  support::ProcessOptions options;
  options.command = {PILLION_PROGRAM, "relay", "--name", name};
  options.command.insert(options.command.end(), arguments.begin(), arguments.end());
  options.environment = {{"PILLION_DATABASE_URL", postgres.url(database)},
                         {"PILLION_AMQP_URL", rabbit.url()},
                         {"PILLION_EXCHANGE", exchange}};
  options.output = directory / (name + ".log");
  return support::Process(options);
}

std::string payload(std::size_t bytes) {
  std::string text = R"({"text":")";
  text.append(bytes - text.size() - 2, 'x');
  return text + "\"}";
}

}  // namespace pillion::bench
