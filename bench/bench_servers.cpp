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

support::Process BenchServers::startRelay(const std::string& database,
                                          const std::string& name) const {
  support::ProcessOptions options;
  options.command = {PILLION_PROGRAM, "relay", "--name", name};
  options.environment = {{"PILLION_DATABASE_URL", postgres.url(database)},
                         {"PILLION_AMQP_URL", rabbit.url()},
                         {"PILLION_EXCHANGE", kExchange}};
  options.output = directory / (name + ".log");
  return support::Process(options);
}

void fillOutbox(const BenchServers& servers, const std::string& database, long events) {
  constexpr long kStep = 100'000;  // several transactions, as from a service
  for (long from = 0; from < events; from += kStep) {
    servers.postgres.execute(
        database,
        // As the publishers write it.
        "insert into pillion.outbox (lane, event_id, type, source, key, time, content_type,"
        " payload) select (hashtextextended(key, 0) & 63)::smallint, gen_random_uuid(),"
        " 'bench.created', 'bench', key, now(), 'application/json', convert_to('" +
            payload() +
            "', 'UTF8') from (select 'key-' || (g % 10000) as key from"
            " generate_series(" +
            std::to_string(from) + ", " + std::to_string(std::min(events, from + kStep) - 1) +
            ") g) keys");
  }
  servers.postgres.execute(database, "checkpoint");
}

std::string payload() {
  std::string text = R"({"text":")";
  text.append(kPayload - text.size() - 2, 'x');
  return text + "\"}";
}

}  // namespace pillion::bench
