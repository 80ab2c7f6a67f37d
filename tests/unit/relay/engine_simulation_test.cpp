#include <doctest/doctest.h>
#include <spdlog/sinks/null_sink.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <map>
#include <memory>
#include <pillion/log.hpp>
#include <set>

#include "event/timestamp.hpp"
#include "relay/engine.hpp"
#include "support/fake_broker.hpp"
#include "support/manual_clock.hpp"
#include "support/scripted_random.hpp"
#include "support/shared_outbox.hpp"

using namespace pillion;
using pillion::relay::Engine;
using pillion::test::Answer;

namespace {

constexpr std::int64_t kEvents = 150;

/// Relays that share lanes, lose channels, are refused, and die, at random; then what the broker
/// got.
class Simulation {
 public:
  explicit Simulation(std::uint64_t seed) : random_(seed) {
    options_.windowEvents = 1 + random_.below(20);
    options_.pageEvents = 1 + random_.below(30);
    if (random_.oneIn(3)) options_.parked = ParkedPolicy::Hold;
    if (random_.oneIn(3)) options_.holdTypes = {"lonely"};
    log_.passRows = 1 + random_.below(10);
    options_.probeFirst = std::chrono::milliseconds(100);
    slow_ = random_.below(4);
    log_.pageRows = 1 + random_.below(options_.pageEvents);
    broker_.answer = [this](const amqp::Message& message) { return decide(message); };
    for (std::size_t i = random_.below(3) + 1; i > 0; --i) {
      relays_.push_back(std::make_unique<Relay>());
      relays_.back()->number = static_cast<int>(relays_.size());
      begin(*relays_.back());
    }
  }

  void run() {
    for (int step = 0; !done(); ++step) {
      REQUIRE(step < 100'000);
      addSome();
      now_ = relays_[random_.below(relays_.size())].get();
      if (random_.oneIn(150)) begin(*now_);  // the process died: only what was saved is left
      shareLanes();
      try {
        now_->engine->turn();
      } catch (const BrokerError&) {
        now_->engine->channelLost();
        connect(*now_);
      }
    }
  }

  void check() {
    std::set<std::string> arrived(broker_.routed.begin(), broker_.routed.end());
    std::set<std::string> held;
    for (const Row& row : log_.rows) {
      const auto* parked = log_.parkedAt(row.id);
      const bool heard = canBeHeard(row, held);
      if (!row.expiresAt.empty() && parked == nullptr) continue;  // in time or not
      CAPTURE(row.id);
      CAPTURE(row.type);
      CAPTURE(row.key);
      const std::string reason(parked != nullptr ? outbox::textOf(parked->reason) : "");
      CAPTURE(reason);
      CHECK((parked != nullptr) == !heard);
      CHECK(arrived.contains(row.eventId) == heard);
    }
    checkOrder();
  }

 private:
  struct Relay {
    int number = 0;
    std::unique_ptr<test::RelayLog> log;
    std::unique_ptr<test::FakeChannel> channel;
    std::unique_ptr<Engine> engine;
  };

  void begin(Relay& relay) {
    outbox_.release(relay.number);
    relay.engine.reset();
    relay.log = std::make_unique<test::RelayLog>(outbox_, relay.number);
    relay.log->slow = [this] { return slow_ > 0 && random_.below(10) < 3 * slow_; };
    relay.engine =
        std::make_unique<Engine>(*relay.log, *relay.log, options_, counters_, clock_, random_);
    connect(relay);
  }

  void connect(Relay& relay) {
    relay.channel = std::make_unique<test::FakeChannel>(broker_, clock_);
    relay.engine->useChannel(relay.channel.get(), random_.oneIn(2));
  }

  /// Some that are free are taken, and some are to be given away.
  void shareLanes() {
    if (relays_.size() > 1 && random_.oneIn(40)) {
      now_->engine->handOver(1 + static_cast<int>(random_.below(outbox::kLanes)));
    }
    for (int lane = 0; lane < outbox::kLanes; ++lane) {
      if (outbox_.holder.at(static_cast<std::size_t>(lane)) != 0) continue;
      if (random_.oneIn(2)) now_->engine->addLanes(outbox_.claim(lane, now_->number));
    }
  }

  /// `held`: keys of those before it that hold them.
  [[nodiscard]] bool canBeHeard(const Row& row, std::set<std::string>& held) const {
    bool heard =
        row.type != "lonely" && row.type != "huge" && row.type != "secret" && row.headers.empty();
    const relay::HoldPolicy hold{options_.parked == ParkedPolicy::Hold, options_.holdTypes};
    heard = heard && !held.contains(row.key);
    if (!heard && !row.key.empty() && hold.holds(row.type)) held.insert(row.key);
    return heard;
  }

  /// The cursor is at the end, and nothing is parked that can be published.
  [[nodiscard]] bool done() const {
    if (outbox_.publishedUpTo() < kEvents) return false;
    std::set<std::int64_t> parked;
    for (const auto& [seq, entry] : log_.parked) parked.insert(entry.row.id);
    std::set<std::string> held;
    return std::ranges::all_of(log_.rows, [&](const Row& row) {
      return !canBeHeard(row, held) || !parked.contains(row.id);
    });
  }

  void addSome() {
    const auto there = static_cast<std::int64_t>(log_.rows.size());
    for (std::size_t i = random_.below(4); i > 0 && there + static_cast<int>(i) <= kEvents; --i) {
      const auto of = static_cast<int>(random_.below(6));
      const std::string key = of == 0 ? "" : "k" + std::to_string(of);
      const int lane = 12 * of;
      const bool last = static_cast<std::int64_t>(log_.rows.size()) + 1 == kEvents;
      if (!last && random_.oneIn(20)) {
        log_.addBad("a");
        log_.rows.back().lane = lane;
      } else {
        outbox_.add(lane, last ? "a" : anyType(), key);
        if (!last && random_.oneIn(25)) expireSoon(log_.rows.back());
      }
    }
  }

  void expireSoon(Row& row) {
    const auto at = clock_.wall() + std::chrono::milliseconds(random_.below(5'000));
    if (row.type != "a" && row.type != "b") return;
    std::string text = toRfc3339(at);
    text[10] = ' ';  // as PostgreSQL has it, in UTC
    text.pop_back();
    row.expiresAt = text;
  }

  std::string anyType() {
    if (random_.oneIn(8)) return "lonely";
    if (random_.oneIn(20)) return "huge";
    if (random_.oneIn(30)) return "secret";
    return random_.oneIn(2) ? "a" : "b";
  }

  Answer decide(const amqp::Message& message) {
    if (message.type == "huge" || message.type == "secret") {
      broker_.closeCode = message.type == "huge" ? 406 : 403;  // max_message_size; no right
      broker_.closeText = random_.oneIn(2) ? "'" + message.type + "'" : "it is not wanted";
      return Answer::Close;
    }
    if (random_.oneIn(60)) now_->channel->lose();
    if (message.type != "lonely" && random_.oneIn(20)) return Answer::Nack;
    if (random_.oneIn(100)) return random_.oneIn(4) ? Answer::Hang : Answer::Silence;
    return message.type == "lonely" ? Answer::Return : Answer::Route;
  }

  /// After duplicates are dropped, as the inbox drops them, each key is in the order of its log.
  void checkOrder() {
    std::map<std::string, const Row*> rows;
    for (const Row& row : log_.rows) rows[row.eventId] = &row;
    std::set<std::string> seen;
    std::map<std::string, std::int64_t> latest;
    for (const std::string& id : broker_.routed) {
      const Row& row = *rows.at(id);
      if (!seen.insert(id).second || row.key.empty()) continue;
      CHECK(latest[row.key] < row.id);
      latest[row.key] = row.id;
    }
  }

  test::SeededRandom random_;
  test::ManualClock clock_;
  test::SharedOutbox outbox_;
  test::FakeEventLog& log_ = outbox_.events;
  test::FakeBroker broker_;
  RelayOptions options_;
  relay::Counters counters_;
  std::size_t slow_ = 0;
  std::vector<std::unique_ptr<Relay>> relays_;
  Relay* now_ = nullptr;
};

}  // namespace

TEST_CASE(
    "whatever is lost, refused, killed or shared: every event arrives or is parked, keys in "
    "order") {
  useLogger(
      std::make_shared<spdlog::logger>("quiet", std::make_shared<spdlog::sinks::null_sink_st>()));
  for (std::uint64_t seed = 1; seed <= 120; ++seed) {
    CAPTURE(seed);
    Simulation simulation(seed);
    simulation.run();
    simulation.check();
  }
  useLogger(nullptr);
}
