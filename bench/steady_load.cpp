#include "steady_load.hpp"

#include <algorithm>
#include <cstdio>
#include <pqxx/pqxx>

#include "amqp/connection.hpp"
#include "support/eventually.hpp"

namespace pillion::bench {
namespace {

/// No measurement takes longer.
constexpr std::chrono::seconds kLongest{3'600};

std::int64_t now() {
  return Steady::now().time_since_epoch().count();
}

/// A thread that fails says why; the measurement then shows what is missing.
template <typename Work>
std::jthread threadOf(const char* what, Work work) {
  return std::jthread([what, work](const std::stop_token& stop) {
    try {
      work(stop);
    } catch (const std::exception& error) {
      std::fprintf(stderr, "  the %s ended: %s\n", what, error.what());
    }
  });
}

}  // namespace

Percentiles percentilesOf(std::vector<double> values) {
  if (values.empty()) return {};
  std::ranges::sort(values);
  const auto at = [&](double share) {
    return values[static_cast<std::size_t>(static_cast<double>(values.size() - 1) * share)];
  };
  return {at(0.50), at(0.99)};
}

std::string numberedBody(std::size_t number) {
  std::string text = R"({"number":)" + std::to_string(number) + R"(,"text":")";
  text.append(kPayload - std::min(kPayload, text.size() + 2), 'x');
  return text + "\"}";
}

std::size_t numberOf(const std::string& body) {
  return std::stoul(body.substr(10));
}

void atRate(int perSecond, std::chrono::seconds time, const std::stop_token& stop,
            const std::function<void()>& work) {
  const auto step = std::chrono::nanoseconds(1'000'000'000 / perSecond);
  auto next = Steady::now();
  for (const auto end = next + time; next < end && !stop.stop_requested(); next += step) {
    std::this_thread::sleep_until(next);
    work();
  }
}

SteadyLoad::SteadyLoad(const Stage& stage, const std::string& queue, std::string type,
                       int perSecond, std::function<std::string(std::size_t)> key)
    : stage_(stage),
      type_(std::move(type)),
      key_(std::move(key)),
      passages_(static_cast<std::size_t>(perSecond * kLongest.count())),
      reader_(threadOf("steady load's reader",
                       [this, queue](const std::stop_token& stop) { read(stop, queue); })),
      writer_(threadOf("steady load's writer", [this, perSecond](const std::stop_token& stop) {
        write(stop, perSecond);
      })) {}

SteadyLoad::~SteadyLoad() {
  writer_.request_stop();
  reader_.request_stop();
}

void SteadyLoad::write(const std::stop_token& stop, int perSecond) {
  const auto publisher =
      EventPublisher::create("bench", {.database = stage_.servers().database(stage_.database())});
  pqxx::connection connection(stage_.servers().postgres.url(stage_.database()));
  atRate(perSecond, kLongest, stop, [&] {
    const std::size_t number = written_;
    Event event = Event::ofBytes(type_, numberedBody(number), "application/json");
    event.setKey(key_(number));
    pqxx::work tx{connection};
    publisher->publish(tx, event);
    passages_[number].left = now();
    tx.commit();
    ++written_;
  });
}

void SteadyLoad::read(const std::stop_token& stop, const std::string& queue) {
  amqp::Connection connection(stage_.broker(), "bench reader");
  connection.consume(queue, 1'000);
  while (!stop.stop_requested()) {
    const auto incoming = connection.receive(std::chrono::milliseconds(100));
    const auto* delivery = incoming ? std::get_if<amqp::Delivery>(&*incoming) : nullptr;
    if (delivery == nullptr) continue;
    Passage& passage = passages_.at(numberOf(delivery->message.body));
    if (passage.came == 0) {
      passage.came = now();
      ++arrived_;
    }
    connection.ack(*delivery);
  }
}

void SteadyLoad::finish(std::chrono::seconds limit) {
  writer_.request_stop();
  writer_.join();
  support::eventually(limit, [&] { return arrived_ >= written_; });
  reader_.request_stop();
  reader_.join();
  for (std::size_t i = 0; i < written_; ++i) {
    if (passages_[i].came == 0) passages_[i].came = now();
  }
}

std::vector<double> SteadyLoad::latencies(std::size_t from, std::size_t to) const {
  std::vector<double> milliseconds;
  for (std::size_t i = from; i < std::min(to, written_.load()); ++i) {
    milliseconds.push_back(static_cast<double>(passages_[i].came - passages_[i].left) / 1e6);
  }
  return milliseconds;
}

}  // namespace pillion::bench
