#include "sick_neighbour.hpp"

#include <algorithm>
#include <csignal>
#include <map>
#include <memory>
#include <stdexcept>
#include <thread>
#include <vector>

#include "amqp/connection.hpp"
#include "backlog.hpp"
#include "stage.hpp"
#include "support/eventually.hpp"

namespace pillion::bench {
namespace {

constexpr int kTypes = 10;

/// The messages in several queues together.
class Depths {
 public:
  void add(std::unique_ptr<QueueDepth> depth) { depths_.push_back(std::move(depth)); }
  [[nodiscard]] long now() const {
    long sum = 0;
    for (const auto& depth : depths_) sum += depth->now();
    return sum;
  }

 private:
  std::vector<std::unique_ptr<QueueDepth>> depths_;
};

std::string typeOf(int number) {
  return "bench.type-" + std::to_string(number);
}

/// Nine healthy ones, and the last as it is asked for.
Depths addQueues(Stage& stage, Sickness sickness) {
  Depths healthy;
  for (int i = 1; i < kTypes; ++i) healthy.add(stage.depthOf(stage.addQueue(typeOf(i))));
  if (sickness == Sickness::Unroutable) return healthy;
  const bool full = sickness == Sickness::Full;
  const auto last = stage.addQueue(typeOf(0), full ? QueueKind::Full : QueueKind::Quorum);
  if (sickness == Sickness::NoMajority) stage.suspendLeader(last);
  return healthy;
}

std::map<std::string, long> readCopies(const Stage& stage, const std::string& queue) {
  std::map<std::string, long> copies;
  amqp::Connection connection(stage.broker(), "bench reader");
  connection.consume(queue, 1'000);
  while (const auto incoming = connection.receive(std::chrono::seconds(2))) {
    const auto* delivery = std::get_if<amqp::Delivery>(&*incoming);
    if (delivery == nullptr) continue;
    ++copies[delivery->message.messageId];
    connection.ack(*delivery);
  }
  return copies;
}

}  // namespace

NeighbourRates drainBesideSick(BenchServers& servers, long events, Sickness sickness,
                               std::chrono::seconds limit) {
  Stage stage(servers);
  const Depths depths = addQueues(stage, sickness);
  // Keys of one type each: what waits behind a sick event of its key is sick as well.
  fillOutbox(servers, stage.database(), {.events = events, .type = "'bench.type-' || (g % 10)"});
  const long healthy = events - events / kTypes;
  // From the relay's start on: the first message of all may be the one that hangs.
  const auto start = Steady::now();
  auto relay = stage.startRelay();
  auto since = start;
  long before = 0;
  long arrived = 0;
  bool warned = false;
  support::eventually(limit, [&] {
    arrived = depths.now();
    if (!warned && (warned = awaitWarning(relay, std::chrono::milliseconds(0)))) {
      since = Steady::now();
      before = arrived;
    }
    return arrived >= healthy;
  });
  NeighbourRates rates;
  rates.whole = static_cast<double>(arrived) / secondsSince(start);
  // What was recognised when all had arrived says nothing of the time after.
  rates.recognised =
      arrived > before ? static_cast<double>(arrived - before) / secondsSince(since) : rates.whole;
  rates.warnedAfter = Seconds(since - start).count();
  rates.share = static_cast<double>(arrived) / static_cast<double>(healthy);
  endRelay(relay);
  return rates;
}

double Copies::perEvent() const {
  return events < 2
             ? 0
             : static_cast<double>(messages - ofMostCopied) / static_cast<double>(events - 1);
}

Copies copiesBesideFull(BenchServers& servers, long events, std::chrono::seconds time) {
  Stage stage(servers);
  stage.addQueue("bench.created", QueueKind::Full);
  const std::string healthy = stage.addQueue("bench.created");
  fillOutbox(servers, stage.database(), {.events = events});
  auto relay = stage.startRelay();
  const auto depth = stage.depthOf(healthy);
  if (!support::eventually(std::chrono::minutes(1), [&] { return depth->now() > 0; })) {
    throw std::runtime_error("nothing arrived beside a full queue: " + relay.output());
  }
  std::this_thread::sleep_for(time);
  relay.signal(SIGKILL);  // as it is now, not as a good-bye would leave it
  Copies result;
  for (const auto& [id, copies] : readCopies(stage, healthy)) {
    ++result.events;
    result.messages += copies;
    result.ofMostCopied = std::max(result.ofMostCopied, copies);
  }
  return result;
}

}  // namespace pillion::bench
