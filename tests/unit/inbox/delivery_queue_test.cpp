#include "inbox/delivery_queue.hpp"

#include <doctest/doctest.h>

#include <thread>

#include "support/manual_clock.hpp"

using namespace std::chrono_literals;
using pillion::amqp::Delivery;
using pillion::base::WakeEvent;
using pillion::inbox::BatchLimit;
using pillion::inbox::DeliveryQueue;
using pillion::inbox::Job;
using pillion::test::ManualClock;
using Tags = std::vector<std::uint64_t>;

namespace pillion::inbox {

bool operator==(const DeliveryQueue::Ack& a, const DeliveryQueue::Ack& b) {
  return a.consumer == b.consumer && a.tag == b.tag && a.multiple == b.multiple;
}

}  // namespace pillion::inbox

namespace {

using Acks = std::vector<DeliveryQueue::Ack>;

Delivery delivery(std::uint64_t tag, const std::string& key = "", std::size_t bytes = 0,
                  std::uint64_t consumer = 0) {
  Delivery made;
  made.tag = tag;
  made.consumer = consumer;
  made.message.messageId = "0197f22e-79b0-7cc3-98c4-dc0c0c07398f";
  made.message.type = "order.placed";
  if (!key.empty()) made.message.headers.emplace_back("cloudEvents_partitionkey", key);
  made.message.body.assign(bytes, 'x');
  return made;
}

std::vector<Job> taken(DeliveryQueue& queue, const BatchLimit& limit = {}) {
  return queue.pop(limit, 0ms, std::stop_token());
}

Tags tagsOf(const std::vector<Job>& jobs) {
  Tags tags;
  for (const Job& job : jobs) tags.push_back(job.delivery.tag);
  return tags;
}

struct Filled {
  explicit Filled(std::vector<std::string> keys) {
    queue.opened(0);
    std::uint64_t tag = 0;
    for (const std::string& key : keys) queue.push(delivery(++tag, key));
  }
  WakeEvent wake;
  DeliveryQueue queue{wake};
};

}  // namespace

TEST_CASE("deliveries are taken in their order, and acked together once none before is open") {
  Filled filled({"", "", ""});
  const auto one = taken(filled.queue);
  const auto two = taken(filled.queue);
  CHECK(tagsOf(one) == Tags{1});
  CHECK(tagsOf(two) == Tags{2});
  CHECK_FALSE(filled.wake.take());
  filled.queue.ack(one[0]);
  filled.queue.ack(two[0]);
  CHECK(filled.wake.take());
  CHECK(filled.queue.takeAcks() == Acks{{0, 2, true}});
  CHECK(filled.queue.takeAcks().empty());
}

TEST_CASE("a slow handler keeps nobody else's ack back") {
  Filled filled({"", "", ""});
  const auto batch = taken(filled.queue, {.events = 3});
  REQUIRE(batch.size() == 3);
  filled.queue.ack(batch[2]);
  CHECK(filled.queue.takeAcks() == Acks{{0, 3, false}});
  filled.queue.ack(batch[1]);
  filled.queue.ack(batch[0]);
  CHECK(filled.queue.takeAcks() == Acks{{0, 2, true}});  // not 3 once more: the broker has had it
  CHECK(filled.queue.takeAcks().empty());
}

TEST_CASE("a key that one worker has is given to no other, and others' events pass by it") {
  Filled filled({"a", "a", "b", "", "a"});
  const auto first = taken(filled.queue, {.events = 1});
  CHECK(tagsOf(first) == Tags{1});
  const auto second = taken(filled.queue, {.events = 10});
  CHECK(tagsOf(second) == Tags{3, 4});
  CHECK(taken(filled.queue, {.events = 10}).empty());
  filled.queue.release(second);
  CHECK(taken(filled.queue, {.events = 10}).empty());
  filled.queue.release(first);
  CHECK(tagsOf(taken(filled.queue, {.events = 10})) == Tags{2, 5});
}

TEST_CASE("a batch takes all events of a key at hand, in their order") {
  Filled filled({"a", "b", "a"});
  CHECK(tagsOf(taken(filled.queue, {.events = 10})) == Tags{1, 2, 3});
}

TEST_CASE("a batch ends at its bytes, and one larger delivery travels alone") {
  WakeEvent wake;
  DeliveryQueue queue(wake);
  queue.opened(0);
  queue.push(delivery(1, "", 60));
  queue.push(delivery(2, "", 60));
  queue.push(delivery(3, "", 500));
  queue.push(delivery(4, "", 1));
  const BatchLimit limit{.events = 10, .bytes = 100};
  CHECK(tagsOf(taken(queue, limit)) == Tags{1});
  CHECK(tagsOf(taken(queue, limit)) == Tags{2});
  CHECK(tagsOf(taken(queue, limit)) == Tags{3});
  CHECK(tagsOf(taken(queue, limit)) == Tags{4});
}

TEST_CASE(
    "an ack of a job whose consumer has ended is dropped: its tag means another message now") {
  WakeEvent wake;
  DeliveryQueue queue(wake);
  queue.opened(1);
  queue.push(delivery(1, "", 0, 1));
  const auto old = taken(queue);
  CHECK_FALSE(queue.stale(old[0]));
  queue.ended(1);
  queue.opened(2);
  CHECK(queue.stale(old[0]));
  queue.push(delivery(1, "", 0, 2));
  queue.ack(old[0]);
  CHECK(queue.takeAcks().empty());
  CHECK_FALSE(wake.take());
  const auto present = taken(queue);
  CHECK_FALSE(queue.stale(present[0]));
  queue.ack(present[0]);
  CHECK(queue.takeAcks() == Acks{{2, 1, true}});
}

TEST_CASE("a consumer that ends takes its acks and what was not begun with it, and no other's") {
  WakeEvent wake;
  DeliveryQueue queue(wake);
  queue.opened(1);
  queue.opened(2);
  queue.push(delivery(1, "", 0, 1));
  queue.push(delivery(1, "", 0, 2));
  queue.push(delivery(2, "", 0, 1));
  queue.push(delivery(2, "", 0, 2));
  for (const Job& job : taken(queue, {.events = 2})) queue.ack(job);
  queue.ended(1);
  queue.push(delivery(3, "", 0, 1));  // still on its way when it ended
  CHECK(queue.takeAcks() == Acks{{2, 1, true}});
  const auto left = taken(queue, {.events = 10});
  REQUIRE(left.size() == 1);
  CHECK(left[0].delivery.consumer == 2);
}

TEST_CASE("of a consumer that is let go of nothing more is begun, and what is in hand is acked") {
  WakeEvent wake;
  DeliveryQueue queue(wake);
  queue.opened(1);
  queue.opened(2);
  for (std::uint64_t tag = 1; tag <= 3; ++tag) queue.push(delivery(tag, "k", 0, 1));
  queue.push(delivery(1, "", 0, 2));
  const auto inHand = taken(queue, {.events = 1});
  CHECK(queue.isInHand(1));
  CHECK_FALSE(queue.isInHand(2));
  queue.letGo(1);
  queue.push(delivery(4, "k", 0, 1));
  const auto others = taken(queue, {.events = 10});
  REQUIRE(others.size() == 1);
  CHECK(others[0].delivery.consumer == 2);
  queue.setAside(inHand);  // blocked: it is not kept for later either
  queue.ack(inHand[0]);
  CHECK(queue.isInHand(1));
  wake.take();
  queue.release(inHand);
  CHECK_FALSE(queue.isInHand(1));
  CHECK(wake.take());  // the broker's thread has something to do: it can end
  CHECK(queue.takeAcks() == Acks{{1, 1, true}});
  CHECK(taken(queue, {.events = 10}).empty());
}

TEST_CASE("a key stays with its worker over a new channel, until that is through with it") {
  Filled filled({"a"});
  const auto old = taken(filled.queue);
  filled.queue.ended(0);
  filled.queue.opened(0);
  filled.queue.push(delivery(1, "a"));
  CHECK(taken(filled.queue).empty());
  filled.queue.release(old);
  CHECK(tagsOf(taken(filled.queue)) == Tags{1});
}

TEST_CASE("what is set aside comes again after a growing pause, before the rest of its key") {
  WakeEvent wake;
  ManualClock clock;
  DeliveryQueue queue(wake, clock);
  queue.opened(0);
  for (std::uint64_t tag = 1; tag <= 5; ++tag) queue.push(delivery(tag, tag == 3 ? "b" : "a"));
  auto blocked = taken(queue, {.events = 2});
  REQUIRE(tagsOf(blocked) == Tags{1, 2});
  for (const auto pause : {1s, 2s, 4s, 8s, 16s, 30s, 30s}) {
    CAPTURE(pause.count());
    queue.setAside(blocked);
    queue.release(blocked);
    const auto others = taken(queue, {.events = 10});
    for (const Job& job : others) queue.ack(job);  // "b", the first time
    queue.release(others);
    clock.advance(pause - 1ms);
    CHECK(taken(queue, {.events = 10}).empty());
    clock.advance(1ms);
    blocked = taken(queue, {.events = 2});
    CHECK(tagsOf(blocked) == Tags{1, 2});
  }
  for (const Job& job : blocked) queue.ack(job);
  queue.release(blocked);
  CHECK(tagsOf(taken(queue, {.events = 10})) == Tags{4, 5});
}

TEST_CASE("of many keys that are set aside each has its pause, and the others pass by all") {
  WakeEvent wake;
  ManualClock clock;
  DeliveryQueue queue(wake, clock);
  queue.opened(0);
  std::uint64_t tag = 0;
  for (const char* key : {"a", "b", "c", "d"}) queue.push(delivery(++tag, key));
  const auto jobs = taken(queue, {.events = 3});
  for (std::size_t i = 0; i < 3; ++i) queue.setAside(std::span(jobs).subspan(i, 1));
  queue.release(jobs);
  CHECK(tagsOf(taken(queue, {.events = 10})) == Tags{4});
  queue.push(delivery(5, "e"));
  CHECK(tagsOf(taken(queue, {.events = 10})) == Tags{5});
  clock.advance(1s);
  CHECK(taken(queue, {.events = 10}).size() == 3);
}

TEST_CASE("one without a key is set aside alone, and by a lost channel with the rest") {
  WakeEvent wake;
  ManualClock clock;
  DeliveryQueue queue(wake, clock);
  queue.opened(0);
  auto first = delivery(1);
  first.message.messageId = "0197f22e-79b0-7cc3-98c4-dc0c0c073990";
  queue.push(std::move(first));
  queue.push(delivery(2));
  auto jobs = taken(queue, {.events = 1});
  queue.setAside(jobs);
  queue.release(jobs);
  CHECK(tagsOf(taken(queue, {.events = 10})) == Tags{2});
  queue.ended(0);
  queue.setAside(jobs);  // they will be delivered again
  clock.advance(1h);
  CHECK(taken(queue, {.events = 10}).empty());
}

TEST_CASE("acks go beyond any number of open deliveries, each tag once") {
  Filled filled(std::vector<std::string>(1'000, ""));
  const auto jobs = taken(filled.queue, {.events = 1'000});
  REQUIRE(jobs.size() == 1'000);
  for (std::size_t i = 1; i < 1'000; i += 2) filled.queue.ack(jobs[i]);
  CHECK(filled.queue.takeAcks().size() == 500);
  CHECK(filled.queue.takeAcks().empty());
  for (std::size_t i = 0; i < 999; i += 2) filled.queue.ack(jobs[i]);
  CHECK(filled.queue.takeAcks() == Acks{{0, 999, true}});  // not 1000 once more
}

TEST_CASE(
    "taking from an empty queue waits for its limit and ends early for a delivery or a stop") {
  WakeEvent wake;
  DeliveryQueue queue(wake);
  queue.opened(0);
  CHECK(queue.pop({}, 1ms, std::stop_token()).empty());
  std::jthread pusher([&] { queue.push(delivery(1)); });
  CHECK(queue.pop({}, 10s, std::stop_token()).size() == 1);
  std::stop_source stop;
  std::jthread stopper([&] { stop.request_stop(); });
  CHECK(queue.pop({}, 10s, stop.get_token()).empty());
}
