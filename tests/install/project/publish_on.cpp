#include <pillion/publisher.hpp>

void publishOn(const pillion::EventPublisher& publisher, PUBLISH_ON& tx) {
  publisher.publish(tx, pillion::Event("product.created", {{"sku", "A-1"}}));
}
