#include "versioned_flow.hpp"

namespace pillion::test {

void Versions::add(const amqp::Message& message) {
  if (!ids_.insert(message.messageId).second) {
    ++repeated_;
    return;
  }
  const auto event = std::get<Event>(amqp::eventFrom(message));
  const int now = event.data().at("version").get<int>();
  int& last = version_[event.key()];
  if (now != last + 1) ++outOfOrder_;
  last = now;
}

void Arrivals::readFor(std::chrono::milliseconds time) {
  for (const auto& message : queue_.readFor(time)) add(message);
}

bool Arrivals::reach(std::size_t events, std::chrono::milliseconds limit) {
  return eventually(limit, [&] {
    readFor(50ms);
    return this->events() >= events;
  });
}

void VersionedFlow::write(pqxx::connection& connection, int events) {
  const int from = written_;
  std::vector<Event> batch;
  for (int n = from; n < from + events; ++n) {
    batch.push_back(Event("order.changed", {{"version", n / keys_ + 1}})
                        .setKey("key-" + std::to_string(n % keys_)));
  }
  pqxx::work tx{connection};
  publisher->publish(tx, batch);
  tx.commit();
  written_ = from + events;
}

void VersionedFlow::write(int events) {
  auto connection = database.connect();
  write(connection, events);
}

void VersionedFlow::beginWriting(int events, std::chrono::milliseconds pause) {
  writer_ = std::jthread([this, events, pause](const std::stop_token& stop) {
    auto connection = database.connect();
    while (!stop.stop_requested()) {
      write(connection, events);
      std::this_thread::sleep_for(pause);
    }
  });
}

void VersionedFlow::endWriting() {
  writer_.request_stop();
  if (writer_.joinable()) writer_.join();
}

bool WatchedFlow::allArrived() {
  return arrivals.reach(written(), 60s) && arrivals.events() == written();
}

}  // namespace pillion::test
