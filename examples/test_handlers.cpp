// A service's own test: its handlers against a real database, without a broker and without a relay.
//
//   test_handlers        says what it found, and ends with status 0 when all is as it should be
//
// A test framework would take the place of `expect`. It migrates by itself.
#include <cstdlib>
#include <exception>
#include <iostream>
#include <memory>
#include <pillion/pillion.hpp>
#include <pillion/testing.hpp>
#include <pqxx/pqxx>
#include <stdexcept>
#include <string>

namespace {

// ---- the service, as it runs in production ------------------------------------------------------

std::unique_ptr<pillion::EventConsumer> makeConsumer(const pillion::EventPublisher& publisher) {
  auto consumer = pillion::EventConsumer::create("stock-service", {"order.*"});
  consumer->onEvent("order.placed", [&](const pillion::Event& event, pillion::Transaction& tx) {
    const auto count = event.data().at("count").get<int>();
    if (count <= 0) throw pillion::RejectEvent("nothing was ordered");
    tx.exec_params("UPDATE stock SET left_over = left_over - $1 WHERE sku = $2", count,
                   event.key());
    publisher.publish(tx, pillion::Event("stock.reserved", {{"count", count}}).setKey(event.key()));
  });
  return consumer;
}

// ---- its test -----------------------------------------------------------------------------------

void expect(bool holds, const std::string& what) {
  if (!holds) throw std::runtime_error("not so: " + what);
  std::cout << "as expected: " << what << '\n';
}

int leftOver(pqxx::connection& connection) {
  pqxx::work tx{connection};
  return tx.exec("SELECT left_over FROM stock WHERE sku = 'SKU-1'")[0][0].as<int>();
}

void run() {
  using pillion::testing::Outcome;
  const char* url = std::getenv("PILLION_DATABASE_URL");
  pillion::Migrator().migrate();
  pqxx::connection connection(url != nullptr ? url : "");
  {
    pqxx::work tx{connection};
    tx.exec(
        "DROP TABLE IF EXISTS stock; CREATE TABLE stock (sku text PRIMARY KEY, left_over int);"
        "INSERT INTO stock VALUES ('SKU-1', 10)");
    tx.commit();
  }
  const auto publisher = pillion::EventPublisher::create("stock-service");
  const auto consumer = makeConsumer(*publisher);  // not started
  pillion::testing::HandlerDriver driver(*consumer);
  pillion::testing::OutboxDrain outbox;

  const auto order = pillion::Event("order.placed", {{"count", 3}}).setKey("SKU-1");
  expect(driver.deliver(order).outcome == Outcome::Applied, "an order is applied");
  expect(driver.deliver(order).outcome == Outcome::Duplicate, "and once only");
  expect(leftOver(connection) == 7, "the stock went down once");
  const auto published = outbox.take();
  expect(published.size() == 1, "one event was published");
  expect(published[0].causationId() == order.id(), "it names its cause");

  const auto empty = pillion::Event("order.placed", {{"count", 0}}).setKey("SKU-1");
  expect(driver.deliver(empty).outcome == Outcome::Rejected, "an empty order is rejected");
  expect(outbox.take().empty(), "which publishes nothing");
}

}  // namespace

int main() {
  try {
    run();
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "test_handlers: " << error.what() << '\n';
    return 1;
  }
}
