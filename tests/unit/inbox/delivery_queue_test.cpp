#include "inbox/delivery_queue.hpp"

#include <doctest/doctest.h>

#include <thread>

using namespace std::chrono_literals;
using pillion::amqp::Delivery;
using pillion::base::WakeEvent;
using pillion::inbox::DeliveryQueue;
using pillion::inbox::Job;
using Tags = std::vector<std::uint64_t>;

namespace {

Delivery delivery(std::uint64_t tag) {
  Delivery made;
  made.tag = tag;
  return made;
}

Job taken(DeliveryQueue& queue) {
  auto job = queue.pop(0ms, std::stop_token());
  REQUIRE(job);
  return std::move(*job);
}

}  // namespace

TEST_CASE("deliveries are taken in their order, and their acks come out in the order of acking") {
  WakeEvent wake;
  DeliveryQueue queue(wake);
  queue.newChannel();
  for (std::uint64_t tag = 1; tag <= 3; ++tag) queue.push(delivery(tag));
  const Job one = taken(queue);
  const Job two = taken(queue);
  CHECK(one.delivery.tag == 1);
  CHECK(two.delivery.tag == 2);
  CHECK_FALSE(wake.take());
  queue.ack(two);
  queue.ack(one);
  CHECK(wake.take());
  CHECK(queue.takeAcks() == Tags{2, 1});
  CHECK(queue.takeAcks().empty());
}

TEST_CASE("an ack of a job from an old channel is dropped: its tag means another message now") {
  WakeEvent wake;
  DeliveryQueue queue(wake);
  queue.newChannel();
  queue.push(delivery(1));
  const Job old = taken(queue);
  CHECK_FALSE(queue.stale(old));
  queue.newChannel();
  CHECK(queue.stale(old));
  queue.push(delivery(1));
  queue.ack(old);
  CHECK(queue.takeAcks().empty());
  CHECK_FALSE(wake.take());
  const Job present = taken(queue);
  CHECK_FALSE(queue.stale(present));
  queue.ack(present);
  CHECK(queue.takeAcks() == Tags{1});
}

TEST_CASE(
    "a new channel drops the acks that were not sent and the deliveries that were not begun") {
  WakeEvent wake;
  DeliveryQueue queue(wake);
  queue.newChannel();
  queue.push(delivery(1));
  queue.push(delivery(2));
  queue.ack(taken(queue));
  queue.newChannel();
  CHECK(queue.takeAcks().empty());
  CHECK_FALSE(queue.pop(0ms, std::stop_token()));
}

TEST_CASE(
    "taking from an empty queue waits for its limit and ends early for a delivery or a stop") {
  WakeEvent wake;
  DeliveryQueue queue(wake);
  const auto begin = std::chrono::steady_clock::now();
  CHECK_FALSE(queue.pop(10ms, std::stop_token()));
  CHECK(std::chrono::steady_clock::now() - begin >= 10ms);
  {
    const std::jthread pusher([&] { queue.push(delivery(5)); });
    const auto job = queue.pop(10s, std::stop_token());
    REQUIRE(job);
    CHECK(job->delivery.tag == 5);
  }
  std::stop_source stop;
  const std::jthread stopper([&] { stop.request_stop(); });
  CHECK_FALSE(queue.pop(10s, stop.get_token()));
  CHECK(std::chrono::steady_clock::now() - begin < 5s);
}

TEST_CASE("a queue that is to stop gives nothing more, even when there is something") {
  WakeEvent wake;
  DeliveryQueue queue(wake);
  queue.push(delivery(1));
  std::stop_source stop;
  stop.request_stop();
  CHECK_FALSE(queue.pop(0ms, stop.get_token()));
}
