// The lines of the README, in a program that needs no server to end.
#include <iostream>
#include <pillion/pillion.hpp>

using namespace pillion;

int main() {
  const auto publisher = EventPublisher::create("product-service");
  const Event event("product.created", {{"sku", "A-1"}});
  const auto consumer = EventConsumer::create("inventory-service", {"product.*"});
  int seen = 0;
  consumer->onEvent("product.created", [&](const Event& e) { seen += e.isJson() ? 1 : 0; });
  const auto relay = Relay::create();
  std::cout << consumer->queue() << ' ' << event.type() << ' '
            << Migrator::known().size() + relay->stats().published << " migrations\n";
  return seen;
}
