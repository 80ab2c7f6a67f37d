// Publishes, and never talks to a broker.
#include <iostream>
#include <pillion/error.hpp>
#include <pillion/publisher.hpp>

int main() {
  pillion::PublisherOptions options;
  options.database.url = "host=/nonexistent";
  const auto publisher = pillion::EventPublisher::create("foreign", options);
  try {
    publisher->publish(pillion::Event("product.created", {{"sku", "A-1"}}));
  } catch (const pillion::DatabaseError& error) {
    std::cout << "published nothing, as expected\n";
    return error.retryable() ? 0 : 1;
  }
  return 1;
}
