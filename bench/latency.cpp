#include "latency.hpp"

#include <algorithm>
#include <atomic>
#include <functional>
#include <thread>
#include <vector>

#include "amqp/connection.hpp"

namespace pillion::bench {
namespace {

using Nanoseconds = std::int64_t;

Nanoseconds now() {
  return Steady::now().time_since_epoch().count();
}

std::string stamped() {
  std::string text = R"({"at":)" + std::to_string(now()) + R"(,"text":")";
  text.append(kPayload - std::min(kPayload, text.size() + 2), 'x');
  return text + "\"}";
}

Percentiles percentiles(std::vector<double> values) {
  if (values.empty()) return {};
  std::ranges::sort(values);
  const auto at = [&](double share) {
    return values[static_cast<std::size_t>(static_cast<double>(values.size() - 1) * share)];
  };
  return {at(0.50), at(0.99)};
}

/// Reads the queue until told to stop; one value per message, in milliseconds.
class Reader {
 public:
  explicit Reader(const BenchServers& servers)
      : connection_(servers.broker(), "bench reader"),
        thread_([this, queue = servers.queue](const std::stop_token& stop) {
          connection_.consume(queue, 1000);
          while (!stop.stop_requested()) read();
        }) {}

  std::vector<double> finish() {
    thread_.request_stop();
    thread_.join();
    return latencies_;
  }

 private:
  void read() {
    const auto incoming = connection_.receive(std::chrono::milliseconds(100));
    if (!incoming) return;
    const auto* delivery = std::get_if<amqp::Delivery>(&*incoming);
    if (delivery == nullptr) return;
    const Nanoseconds sent = std::stoll(delivery->message.body.substr(6));
    latencies_.push_back(static_cast<double>(now() - sent) / 1e6);
    connection_.ack(delivery->tag);
  }

  amqp::Connection connection_;
  std::vector<double> latencies_;
  std::jthread thread_;
};

void atRate(int perSecond, std::chrono::seconds time, const std::function<void()>& work) {
  const auto step = std::chrono::nanoseconds(1'000'000'000 / perSecond);
  auto next = Steady::now();
  for (const auto end = next + time; next < end; next += step) {
    std::this_thread::sleep_until(next);
    work();
  }
}

}  // namespace

Percentiles commitToDelivery(BenchServers& servers, int perSecond, std::chrono::seconds time) {
  const std::string database = servers.createDatabase();
  servers.freshQueue();
  auto relay = servers.startRelay(database, "latency");
  Reader reader(servers);
  const auto publisher = EventPublisher::create("bench", {.database = servers.database(database)});
  pqxx::connection connection(servers.postgres.url(database));
  int n = 0;
  atRate(perSecond, time, [&] {
    pqxx::work tx{connection};
    publisher->publish(tx, Event::ofBytes("bench.created", stamped(), "application/json")
                               .setKey("key-" + std::to_string(++n % 1000)));
    tx.commit();
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  auto latencies = reader.finish();
  relay.terminate(std::chrono::seconds(10));
  return percentiles(std::move(latencies));
}

Percentiles publishToDelivery(BenchServers& servers, int perSecond, std::chrono::seconds time) {
  servers.freshQueue();
  Reader reader(servers);
  amqp::Connection connection(servers.broker(), "bench publisher");
  connection.selectConfirms(kExchange);
  amqp::Message message;
  message.routingKey = message.type = "bench.created";
  message.messageId = "018f0000-0000-7000-8000-000000000000";
  atRate(perSecond, time, [&] {
    message.body = stamped();
    connection.publish(message);
    while (connection.receive(std::chrono::milliseconds(0))) {
    }
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  return percentiles(reader.finish());
}

}  // namespace pillion::bench
