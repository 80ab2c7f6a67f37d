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
#include "support/fake_event_log.hpp"
#include "support/manual_clock.hpp"
#include "support/scripted_random.hpp"

using namespace pillion;
using pillion::relay::Engine;
using pillion::test::Answer;

namespace {

constexpr std::int64_t kEvents = 150;

/// A relay that loses channels, is refused, and dies, at random; then what the broker got.
class Simulation {
 public:
  explicit Simulation(std::uint64_t seed) : random_(seed) {
    options_.windowEvents = 1 + random_.below(20);
    options_.pageEvents = 1 + random_.below(30);
    if (random_.oneIn(3)) options_.parked = ParkedPolicy::Hold;
    if (random_.oneIn(3)) options_.holdTypes = {"lonely"};
    log_.passRows = 1 + random_.below(10);
    options_.probeFirst = std::chrono::milliseconds(100);
    const std::size_t slow = random_.below(4);
    log_.slow = [this, slow] { return slow > 0 && random_.below(10) < 3 * slow; };
    log_.pageRows = 1 + random_.below(options_.pageEvents);
    broker_.answer = [this](const amqp::Message& message) { return decide(message); };
  }

  void run() {
    begin();
    for (int step = 0; !done(); ++step) {
      REQUIRE(step < 100'000);
      addSome();
      if (random_.oneIn(150)) begin();  // the process died: only what was saved is left
      try {
        engine_->turn();
      } catch (const BrokerError&) {
        engine_->channelLost();
        connect();
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
  void begin() {
    engine_ = std::make_unique<Engine>(log_, log_, options_, counters_, clock_, random_);
    engine_->addLanes(log_.saved);
    connect();
  }

  void connect() {
    channel_ = std::make_unique<test::FakeChannel>(broker_, clock_);
    engine_->useChannel(channel_.get(), random_.oneIn(2));
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
    if (test::FakeEventLog::placeOf(log_.saved) < kEvents) return false;
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
      const std::string key = random_.oneIn(4) ? "" : "k" + std::to_string(random_.below(5));
      const bool last = static_cast<std::int64_t>(log_.rows.size()) + 1 == kEvents;
      if (!last && random_.oneIn(20)) {
        log_.addBad("a");
      } else {
        log_.add(last ? "a" : anyType(), key);
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
    if (random_.oneIn(60)) channel_->lose();
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
  test::FakeEventLog log_;
  test::FakeBroker broker_;
  RelayOptions options_;
  relay::Counters counters_;
  std::unique_ptr<test::FakeChannel> channel_;
  std::unique_ptr<Engine> engine_;
};

}  // namespace

TEST_CASE("whatever is lost, refused or killed: every event arrives or is parked, keys in order") {
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
