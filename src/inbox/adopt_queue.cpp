#include <pillion/error.hpp>
#include <pillion/restore.hpp>

#include "amqp/broker_check.hpp"
#include "amqp/connection.hpp"
#include "amqp/topology.hpp"
#include "migrate/meta_table.hpp"
#include "migrate/schema_check.hpp"
#include "postgres/connection.hpp"

namespace pillion {

void adoptQueue(const DatabaseOptions& database, const BrokerOptions& broker,
                const std::string& queue) {
  amqp::requireValid(broker);
  if (queue.empty()) throw ConfigError("adopt needs the name of the consumer's queue");
  const std::string schema = postgres::schemaOf(database);
  amqp::ConsumerTopology topology;
  topology.queue = queue;
  const auto connection = postgres::connect(database, "adopt");
  postgres::guarded("reading whose inbox this is", [&] {
    pqxx::nontransaction tx{*connection};
    migrate::requireCurrentSchema(tx, schema);
    topology.inbox = migrate::inboxIdentity(tx, schema);
  });
  amqp::Connection look(broker, "adopt " + queue);
  amqp::adoptQueue(look, topology);
  look.close();
}

}  // namespace pillion
