// inventory-service: keeps its own copy of the products, from the events of product-service.
//
//   PILLION_DATABASE_URL=postgresql://… PILLION_AMQP_URL=amqp://… PORT=8082 inventory-service
//
// Start it as often as you like: instances share the queue and every event is applied by one.
#include <httplib.h>
#include <spdlog/spdlog.h>

#include <pillion/pillion.hpp>

#include "product_cache.hpp"
#include "service.hpp"
#include "tables.hpp"

using pillion::Event;
using pillion::Transaction;

namespace {

void runInventoryService() {
  const warehouse::StopSignals signals;
  warehouse::Database database;
  pillion::Migrator{}.migrate();
  database.create(warehouse::kProductCacheTable);

  pillion::ConsumerOptions options;
  options.broker.exchange = warehouse::environment("PILLION_EXCHANGE", "warehouse.events");
  options.queue = "inventory-service-products";
  const auto consumer = pillion::EventConsumer::create("inventory-service", {"product.*"}, options);

  // What a handler writes through tx commits together with the event's id, or not at all. The log
  // line is no part of that: it may appear twice when a transaction has to be repeated.
  consumer->onEvent("product.created", [](const Event& event, Transaction& tx) {
    warehouse::applyToCache(event, tx);
    spdlog::info("product.created sku={}", event.key());
  });
  consumer->onEvent("product.updated", [](const Event& event, Transaction& tx) {
    warehouse::applyToCache(event, tx);
  });
  consumer->onEvent("product.deleted", [](const Event& event, Transaction& tx) {
    warehouse::applyToCache(event, tx);
    spdlog::info("product.deleted sku={}", event.key());
  });
  consumer->start();

  httplib::Server server;
  warehouse::addCacheRoutes(server, database);
  warehouse::addStatsRoute(server, *consumer);
  warehouse::serve(server, "inventory-service", 8082, signals);
  consumer->stop();
}

}  // namespace

int main() {
  return warehouse::run("inventory-service", runInventoryService);
}
