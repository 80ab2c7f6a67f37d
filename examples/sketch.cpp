// The lines that Pillion was born from, in a program of their own. It ends when the events have
// arrived, or with status 1 after the seconds given (default 10): a relay must run.
//
//   pillion migrate && pillion relay &   sketch 10
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <pillion/pillion.hpp>
#include <pqxx/pqxx>
#include <string>
#include <thread>

using namespace pillion;

namespace {

std::mutex mutex;
std::condition_variable changed;
int cached = 0;

void count(int& counter) {
  const std::lock_guard lock(mutex);
  ++counter;
  changed.notify_all();
}

void updateProductCache(const nlohmann::json& product) {
  std::cout << "cached " << product.at("sku") << std::endl;
  count(cached);
}

// The first lines, as they stand. A cache in memory is no part of a transaction, so this handler
// may run twice for one event; and a crash between a change of yours and publish(event) loses it.
std::unique_ptr<EventConsumer> sketch(const nlohmann::json& productData) {
  // [sketch]
  auto publisher = EventPublisher::create("product-service");
  Event event("product.created", productData);
  publisher->publish(event);

  auto consumer = EventConsumer::create("inventory-service", {"product.*"});
  consumer->onEvent("product.created", [](const Event& e) { updateProductCache(e.data()); });
  consumer->start();
  // [sketch]
  return consumer;
}

// The forms that carry the guarantee, first the one that publishes …
void createProduct(pqxx::connection& connection, const std::string& sku) {
  auto publisher = EventPublisher::create("product-service");
  Event event("product.created", {{"sku", sku}});
  // [publish]
  pqxx::work tx{connection};
  tx.exec_params("INSERT INTO product (sku) VALUES ($1)", sku);
  publisher->publish(tx, event);  // same transaction: both rows or neither
  tx.commit();
  // [publish]
}

// … and then the one that consumes.
std::unique_ptr<EventConsumer> storeProducts() {
  auto consumer = EventConsumer::create("order-service", {"product.*"});
  // [consume]
  consumer->onEvent("product.created", [](const Event& e, Transaction& tx) {
    /* writes join the inbox row's transaction */
    tx.exec_params("INSERT INTO product_cache (sku) VALUES ($1) ON CONFLICT DO NOTHING",
                   e.data().at("sku").get<std::string>());
  });
  // [consume]
  consumer->start();
  return consumer;
}

void createTables(pqxx::connection& connection) {
  pqxx::work tx{connection};
  tx.exec("CREATE TABLE IF NOT EXISTS product (sku text PRIMARY KEY)");
  tx.exec("CREATE TABLE IF NOT EXISTS product_cache (sku text PRIMARY KEY)");
  tx.exec("TRUNCATE product, product_cache");
  tx.commit();
}

bool isStored(pqxx::connection& connection, const std::string& sku) {
  pqxx::work tx{connection};
  return !tx.exec_params("SELECT 1 FROM product_cache WHERE sku = $1", sku).empty();
}

int run(std::chrono::seconds limit) {
  const char* url = std::getenv("PILLION_DATABASE_URL");
  pqxx::connection connection(url != nullptr ? url : "");
  Migrator{}.migrate();
  createTables(connection);

  // A queue gets what is published after it was made. The first event waits in the outbox for the
  // first queue; the second consumer is started before the event that it shall see.
  const auto inventory = sketch({{"sku", "SKETCH-1"}});
  const auto order = storeProducts();
  createProduct(connection, "SKETCH-2");

  const auto end = std::chrono::steady_clock::now() + limit;
  std::unique_lock lock(mutex);
  const bool arrived = changed.wait_until(lock, end, [] { return cached >= 2; });
  lock.unlock();
  while (!isStored(connection, "SKETCH-2") && std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  order->stop();  // when it returns, the handler's transaction has ended too
  pqxx::work tx{connection};
  const auto rows = tx.exec("SELECT sku FROM product_cache WHERE sku = 'SKETCH-2'");
  std::cout << "cached " << cached << " events, stored " << rows.size() << " product\n";
  return arrived && rows.size() == 1 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(std::chrono::seconds(argc > 1 ? std::atoi(argv[1]) : 10));
  } catch (const std::exception& error) {
    std::cerr << "sketch: " << error.what() << '\n';
    return 2;
  }
}
