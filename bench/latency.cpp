#include "latency.hpp"

#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

#include "amqp/connection.hpp"
#include "support/eventually.hpp"

namespace pillion::bench {
namespace {

using Nanoseconds = std::int64_t;

Nanoseconds now() {
  return Steady::now().time_since_epoch().count();
}

/// When each message was let go, by its number; they begin with `first`.
class Departures {
 public:
  Departures(int perSecond, std::chrono::seconds time, std::size_t first = 0)
      : first_(first), at_(static_cast<std::size_t>(perSecond * (time.count() + 1))) {}
  void note(std::size_t number) { at_.at(number - first_) = now(); }
  [[nodiscard]] Nanoseconds of(std::size_t number) const { return at_.at(number - first_); }

 private:
  std::size_t first_;
  std::vector<std::atomic<Nanoseconds>> at_;
};

/// The relay's start is no part of the latency.
constexpr std::chrono::seconds kWarmUp{2};

/// Reads the queue until told to stop; one value per message, in milliseconds.
class Reader {
 public:
  Reader(const BenchServers& servers, const Departures& departures, std::size_t from)
      : departures_(departures),
        from_(from),
        connection_(servers.broker(), "bench reader"),
        thread_([this, queue = servers.queue](const std::stop_token& stop) {
          connection_.consume(queue, 1000);
          while (!stop.stop_requested()) read();
        }) {}

  /// Messages by now.
  [[nodiscard]] std::size_t delivered() const { return delivered_; }

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
    const std::size_t number = numberOf(delivery->message.body);
    const Nanoseconds sent = departures_.of(number);
    if (number >= from_) latencies_.push_back(static_cast<double>(now() - sent) / 1e6);
    connection_.ack(*delivery);
    ++delivered_;
  }

  const Departures& departures_;
  std::size_t from_;
  amqp::Connection connection_;
  std::vector<double> latencies_;
  std::atomic<std::size_t> delivered_{0};
  std::jthread thread_;
};

support::Process startOnFreshQueue(BenchServers& servers, const std::string& database) {
  servers.freshQueue();
  return servers.startRelay(database, "latency");
}

}  // namespace

CommitToDelivery::CommitToDelivery(BenchServers& servers, int perSecond)
    : servers_(servers),
      perSecond_(perSecond),
      database_(servers.createDatabase()),
      relay_(startOnFreshQueue(servers, database_)),
      publisher_(EventPublisher::create("bench", {.database = servers.database(database_)})),
      connection_(servers.postgres.url(database_)) {}

void CommitToDelivery::finish() {
  if (relay_.terminate(std::chrono::seconds(10)) != 0) {
    throw std::runtime_error("the relay did not end well: " + relay_.output());
  }
}

Percentiles CommitToDelivery::measure(std::chrono::seconds time) {
  const std::size_t first = next_;
  Departures departures(perSecond_, time + kWarmUp, first);
  const auto warmUp = static_cast<std::size_t>(perSecond_ * kWarmUp.count());
  Reader reader(servers_, departures, first + warmUp);
  atRate(perSecond_, time + kWarmUp, {}, [&] {
    pqxx::work tx{connection_};
    publisher_->publish(tx, Event::ofBytes("bench.created", numberedBody(next_), "application/json")
                                .setKey("key-" + std::to_string(next_ % 1000)));
    departures.note(next_++);
    tx.commit();
  });
  // Those that are late are the ones that count: none may be left out.
  const bool all = support::eventually(std::chrono::minutes(1),
                                       [&] { return reader.delivered() >= next_ - first; });
  auto latencies = reader.finish();
  if (!all) throw std::runtime_error("not every event was delivered: " + relay_.output());
  return percentilesOf(std::move(latencies));
}

Percentiles publishToDelivery(BenchServers& servers, int perSecond, std::chrono::seconds time) {
  servers.freshQueue();
  Departures departures(perSecond, time + kWarmUp);
  Reader reader(servers, departures, static_cast<std::size_t>(perSecond * kWarmUp.count()));
  amqp::Connection connection(servers.broker(), "bench publisher");
  connection.selectConfirms(kExchange);
  amqp::Message message;
  message.routingKey = message.type = "bench.created";
  message.messageId = "018f0000-0000-7000-8000-000000000000";
  std::size_t n = 0;
  atRate(perSecond, time + kWarmUp, {}, [&] {
    message.body = numberedBody(n);
    departures.note(n++);
    connection.publish(message);
    while (connection.receive(std::chrono::milliseconds(0))) {
    }
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  return percentilesOf(reader.finish());
}

}  // namespace pillion::bench
