#include "inbox/delivery.hpp"

#include <doctest/doctest.h>

#include <map>
#include <pillion/error.hpp>

using namespace pillion;
using namespace pillion::inbox;
using Steps = std::vector<std::string>;
using std::chrono::milliseconds;

namespace {

constexpr const char* kId = "0197f22e-79b0-7cc3-98c4-dc0c0c07398f";
const std::string kClaim = std::string("claim ") + kId;

std::string idOf(int number) {
  return std::string(kId).substr(0, 35) + std::to_string(number);
}

/// Writes down what is asked of it, and fails where it is told to.
struct Bench : Inbox {
  struct Recorded : InboxTransaction {
    explicit Recorded(Bench& bench) : bench_(bench) {}
    Recorded(const Recorded&) = delete;
    Recorded& operator=(const Recorded&) = delete;
    ~Recorded() override { bench_.note("end"); }
    std::optional<std::vector<Claim>> claim(std::span<const amqp::Identity* const> events,
                                            Wait) override {
      std::vector<Claim> claims;
      if (bench_.claimIsBlocked) return std::nullopt;
      if (bench_.claimFails) throw HandlerFailed({"deadlock", "", true});
      for (const auto* event : events) {
        bench_.note("claim " + event->id);
        const auto found = bench_.claimed.find(event->id);
        claims.push_back(found != bench_.claimed.end() ? found->second : Claim::New);
      }
      return claims;
    }
    void run(const Handler&, const Event& event) override {
      bench_.note("run " + event.id());
      bench_.clock.now += bench_.handlerTime;
      if (event.id() == bench_.poison) throw HandlerFailed({"no stock", ""});
    }
    bool holdBack(const Job&, const amqp::Identity& event) override {
      if (!bench_.heldKey.empty()) bench_.note("look " + event.id);
      return event.key == bench_.heldKey && !event.key.empty();
    }
    void leaveToOthers(const Job&, const amqp::Identity& event) override {
      bench_.note("leave " + event.id);
    }
    void park(const Job&, const amqp::Identity& event, const Failure& failure, Wait) override {
      bench_.note("park " + event.id + " " + failure.error);
    }
    bool lock(const ParkedEvent&) override { return true; }
    std::vector<ParkedEvent> lockBehind(const ParkedEvent&, int) override { return {}; }
    void unpark(const ParkedEvent&, std::span<const ParkedEvent>) override {}
    void giveUp(const ParkedEvent&, const Failure&, int) override {}
    void forget(const amqp::Identity& event) override { bench_.note("forget " + event.id); }
    void deadLetter(const Job&, const Failure& failure, int attempts) override {
      bench_.note("dead " + failure.verdict + " " + std::to_string(attempts));
    }
    void failAgain(const ParkedEvent&, const Failure&, Wait) override {}
    void commit() override {
      bench_.note("commit");
      if (bench_.commitFails) throw HandlerFailed({"deferred", ""});
    }

   private:
    Bench& bench_;
  };

  [[nodiscard]] bool remembers(const std::string&) const override { return remembered; }
  std::unique_ptr<InboxTransaction> begin() override {
    note("begin");
    return std::make_unique<Recorded>(*this);
  }
  bool forgetOld() override { return false; }
  std::optional<ParkedEvent> takeDue(const std::vector<std::string>&) override {
    return std::nullopt;
  }
  void giveBack(const ParkedEvent&) override {}
  bool leaveToOthers(const ParkedEvent&) override { return true; }
  std::optional<milliseconds> nextDueIn() override { return std::nullopt; }

  void note(const std::string& step) {
    steps.push_back(step);
    if (step == failAt) throw DatabaseError(DatabaseError::Kind::Unavailable, step);
  }

  void push(const std::string& id = kId, const std::string& type = "product.created",
            const std::string& body = "1", const std::string& key = "") {
    amqp::Delivery delivery;
    delivery.tag = ++tag;
    delivery.message.messageId = id;
    delivery.message.type = type;
    delivery.message.contentType = "application/json";
    delivery.message.body = body;
    if (!key.empty()) delivery.message.headers.emplace_back("cloudEvents_partitionkey", key);
    queue.push(std::move(delivery));
  }

  [[nodiscard]] Handling handling() {
    return {.handlers = handlers,
            .inbox = *this,
            .queue = queue,
            .watch = watch,
            .parked = ParkedPolicy::Hold,
            .outsideWindow = outsideWindow,
            .unhandled = unhandled,
            .clock = clock};
  }

  Attempt tried() {
    jobs = queue.pop({.events = 100}, milliseconds(0), std::stop_token());
    REQUIRE(!jobs.empty());
    return attemptBatch(jobs, handling());
  }
  std::vector<Outcome> attempt() { return tried().outcomes; }

  [[nodiscard]] std::size_t acks() {
    const auto acks = queue.takeAcks();
    return acks.empty() ? 0 : acks[0].tag;
  }

  Bench() {
    queue.opened(0);
    handlers.add("product.*", [](const Event&, Transaction&) {});
  }

  std::map<std::string, Claim> claimed;
  std::string poison;
  std::string heldKey;
  bool claimFails = false;
  bool claimIsBlocked = false;
  bool commitFails = false;
  milliseconds handlerTime{0};
  struct : base::Clock {
    [[nodiscard]] Wall wall() const override { return {}; }
    [[nodiscard]] Boot boot() const override { return now; }
    Boot now{0};
  } clock;
  bool remembered = true;
  OutsideWindowPolicy outsideWindow = OutsideWindowPolicy::DeadLetter;
  UnhandledPolicy unhandled = UnhandledPolicy::DeadLetter;
  std::string failAt;
  Steps steps;
  HandlerTable handlers;
  HandlerWatch watch;
  base::WakeEvent wake;
  DeliveryQueue queue{wake};
  std::vector<Job> jobs;
  std::uint64_t tag = 0;
};

using Outcomes = std::vector<Outcome>;

}  // namespace

TEST_CASE("a new event is claimed, handled and committed, in this order, and then acked") {
  Bench bench;
  bench.push();
  CHECK(bench.attempt() == Outcomes{Outcome::Applied});
  CHECK(bench.steps == Steps{"begin", kClaim, std::string("run ") + kId, "commit", "end"});
  CHECK(bench.acks() == 1);
}

TEST_CASE("a batch is one transaction, with an outcome for each of its events") {
  Bench bench;
  bench.claimed[idOf(2)] = Claim::Duplicate;
  bench.push(idOf(1));
  bench.push(idOf(2));
  bench.push(idOf(3), "order.created");
  bench.push(idOf(4));
  CHECK(bench.attempt() ==
        Outcomes{Outcome::Applied, Outcome::Duplicate, Outcome::Left, Outcome::Applied});
  CHECK(bench.steps == Steps{"begin", "claim " + idOf(1), "claim " + idOf(2), "claim " + idOf(3),
                             "claim " + idOf(4), "leave " + idOf(3), "run " + idOf(1),
                             "run " + idOf(4), "commit", "end"});
  CHECK(bench.acks() == 4);
}

TEST_CASE("a batch that stops says where, and leaves nothing behind") {
  Bench bench;
  bench.poison = idOf(2);
  for (int i = 1; i <= 3; ++i) bench.push(idOf(i));
  const Attempt attempt = bench.tried();
  REQUIRE(attempt.end == Attempt::End::Stopped);
  CHECK(attempt.index == 1);
  CHECK(attempt.isEvent);
  CHECK(attempt.failure.error == "no stock");
  CHECK(bench.steps.back() == "end");
  CHECK(std::ranges::find(bench.steps, "commit") == bench.steps.end());
  CHECK(bench.acks() == 0);
}

TEST_CASE("a commit that fails stops the batch in its middle: whose doing it was is not known") {
  Bench bench;
  bench.commitFails = true;
  for (int i = 1; i <= 4; ++i) bench.push(idOf(i));
  const Attempt attempt = bench.tried();
  REQUIRE(attempt.end == Attempt::End::Stopped);
  CHECK(attempt.index == 2);
  CHECK(bench.acks() == 0);
}

TEST_CASE("a claim that deadlocks stops the batch in its middle, and says that this passes") {
  Bench bench;
  bench.claimFails = true;
  for (int i = 1; i <= 4; ++i) bench.push(idOf(i));
  const Attempt attempt = bench.tried();
  REQUIRE(attempt.end == Attempt::End::Stopped);
  CHECK(attempt.index == 2);
  CHECK(attempt.failure.passing);
}

TEST_CASE("a batch whose handlers have become slow is given up after a second, for smaller ones") {
  Bench bench;
  bench.handlerTime = milliseconds(40);
  for (int i = 1; i <= 9; ++i) bench.push(idOf(i));
  CHECK(bench.attempt().size() == 9);
  bench.handlerTime = milliseconds(400);
  bench.steps.clear();
  for (int i = 1; i <= 9; ++i) bench.push(idOf(i));
  const Attempt attempt = bench.tried();
  REQUIRE(attempt.end == Attempt::End::TooSlow);
  CHECK(attempt.fitting == 1);
  CHECK(std::ranges::count_if(bench.steps, [](const auto& s) { return s.starts_with("run"); }) ==
        3);
  CHECK(std::ranges::find(bench.steps, "commit") == bench.steps.end());
}

TEST_CASE("an event that an operator lets through is claimed, whatever the inbox forgot") {
  Bench bench;
  bench.remembered = false;
  bench.claimed[kId] = Claim::Forgotten;
  amqp::Delivery delivery;
  delivery.tag = ++bench.tag;
  delivery.message.messageId = kId;
  delivery.message.type = "product.created";
  delivery.message.contentType = "application/json";
  delivery.message.body = "1";
  delivery.message.headers.emplace_back("pillion-outside-window", "apply");
  bench.queue.push(std::move(delivery));
  CHECK(bench.attempt() == Outcomes{Outcome::Applied});
}

TEST_CASE("an event that failed alone is parked with its id, and then acked") {
  Bench bench;
  bench.push();
  bench.jobs = bench.queue.pop({}, milliseconds(0), std::stop_token());
  const Failure failure{"no stock", ""};
  CHECK(parkFailed(bench.jobs[0], failure, milliseconds(1), bench.handling()) == Outcome::Parked);
  CHECK(bench.steps ==
        Steps{"begin", kClaim, std::string("park ") + kId + " no stock", "commit", "end"});
  CHECK(bench.acks() == 1);
}

TEST_CASE("an event that another instance has taken meanwhile is not parked a second time") {
  Bench bench;
  bench.claimed[kId] = Claim::Duplicate;
  bench.push();
  bench.jobs = bench.queue.pop({}, milliseconds(0), std::stop_token());
  CHECK(parkFailed(bench.jobs[0], {"no stock", ""}, milliseconds(1), bench.handling()) ==
        Outcome::Duplicate);
  CHECK(bench.steps == Steps{"begin", kClaim, "end"});
}

TEST_CASE("an event behind a parked one of its key is held, and its handler is not called") {
  Bench bench;
  bench.heldKey = "a";
  bench.push(idOf(1), "product.created", "1", "a");
  bench.push(idOf(2), "product.created", "1", "a");
  CHECK(bench.attempt() == Outcomes{Outcome::Held, Outcome::Held});
  CHECK(bench.steps == Steps{"begin", "claim " + idOf(1), "claim " + idOf(2), "look " + idOf(1),
                             "look " + idOf(2), "commit", "end"});
  CHECK(bench.acks() == 2);
}

TEST_CASE("events that are held go first, by themselves, when handlers are to run for others") {
  Bench bench;
  bench.heldKey = "a";
  bench.push(idOf(1), "product.created", "1", "a");
  bench.push(idOf(2), "product.created", "1", "b");
  bench.push(idOf(3), "order.created", "1", "c");  // is left to others: as good as held
  bench.push(idOf(4), "order.created", "1", "b");  // must not pass the second
  bench.push(idOf(5), "product.created", "1", "a");
  const Attempt attempt = bench.tried();
  REQUIRE(attempt.end == Attempt::End::Holds);
  CHECK(attempt.first == std::vector<std::size_t>{0, 2, 4});
  CHECK(bench.steps.back() == "end");
  CHECK(std::ranges::none_of(bench.steps, [](const std::string& step) {
    return step == "commit" || step.starts_with("run");
  }));
  CHECK(bench.acks() == 0);
}

TEST_CASE("an id that may have been applied and forgotten is rolled back and dead-lettered") {
  Bench bench;
  bench.claimed[kId] = Claim::Forgotten;
  bench.push();
  const Attempt attempt = bench.tried();
  REQUIRE(attempt.end == Attempt::End::Stopped);
  CHECK_FALSE(attempt.isEvent);
  CHECK(attempt.failure.verdict == "outside-dedupe-window");
  CHECK(deadLetter(bench.jobs[0], attempt.failure, 0, bench.handling()) == Outcome::DeadLettered);
  CHECK(bench.steps ==
        Steps{"begin", kClaim, "end", "begin", "dead outside-dedupe-window 0", "commit", "end"});
  CHECK(bench.acks() == 1);
}

TEST_CASE("nothing is acked when any step fails, and a loss while handlers run may be theirs") {
  for (const std::string& step : {std::string("begin"), kClaim}) {
    CAPTURE(step);
    Bench bench;
    bench.failAt = step;
    bench.push();
    CHECK_THROWS_AS(bench.attempt(), DatabaseError);
    CHECK(bench.acks() == 0);
  }
  for (const std::string& step : {"run " + idOf(2), std::string("commit")}) {
    CAPTURE(step);
    Bench bench;
    bench.failAt = step;
    for (int i = 1; i <= 2; ++i) bench.push(idOf(i));
    const Attempt attempt = bench.tried();
    REQUIRE(attempt.end == Attempt::End::Lost);
    CHECK(attempt.index == 1);
    CHECK(attempt.lost->retryable());
    CHECK(bench.acks() == 0);
  }
}

TEST_CASE("ids that another transaction does not let go of leave all as it was") {
  Bench bench;
  bench.claimIsBlocked = true;
  for (int i = 1; i <= 2; ++i) bench.push(idOf(i));
  CHECK(bench.tried().end == Attempt::End::Blocked);
  CHECK(bench.steps == Steps{"begin", "end"});
  CHECK(bench.acks() == 0);
  CHECK_THROWS_AS(parkFailed(bench.jobs[0], {"no stock", ""}, milliseconds(1), bench.handling()),
                  DatabaseError);
  CHECK(bench.acks() == 0);
}

TEST_CASE("a dead letter that cannot be written is not acked") {
  for (const std::string step : {"begin", "dead invalid-event 0", "commit"}) {
    CAPTURE(step);
    Bench bench;
    bench.push();
    bench.jobs = bench.queue.pop({}, milliseconds(0), std::stop_token());
    bench.failAt = step;
    CHECK_THROWS_AS(deadLetter(bench.jobs[0], {"", "invalid-event"}, 0, bench.handling()),
                    DatabaseError);
    CHECK(bench.acks() == 0);
  }
}

TEST_CASE("a rejected event is a dead letter in one transaction, and its id is forgotten") {
  Bench bench;
  bench.push();
  bench.jobs = bench.queue.pop({}, milliseconds(0), std::stop_token());
  CHECK(deadLetter(bench.jobs[0], {"", "rejected"}, 1, bench.handling()) == Outcome::DeadLettered);
  CHECK(bench.steps ==
        Steps{"begin", kClaim, std::string("forget ") + kId, "dead rejected 1", "commit", "end"});
  CHECK(bench.acks() == 1);
}

TEST_CASE("a rejected event that another instance has taken meanwhile is no dead letter") {
  Bench bench;
  bench.claimed[kId] = Claim::Duplicate;
  bench.push();
  bench.jobs = bench.queue.pop({}, milliseconds(0), std::stop_token());
  CHECK(deadLetter(bench.jobs[0], {"", "rejected"}, 1, bench.handling()) == Outcome::Duplicate);
  CHECK(bench.steps == Steps{"begin", kClaim, "end"});
  CHECK(bench.acks() == 1);
}

TEST_CASE("an event that is to be ignored is acked without touching the database") {
  Bench bench;
  bench.push(kId, "order.created");
  bench.unhandled = UnhandledPolicy::Ignore;
  CHECK(bench.attempt() == Outcomes{Outcome::Ignored});
  CHECK(bench.steps.empty());
  CHECK(bench.acks() == 1);
}

TEST_CASE("an event that nobody handles here is left to others with its id, and then acked") {
  Bench bench;
  bench.push(kId, "order.created");
  CHECK(bench.attempt() == Outcomes{Outcome::Left});
  CHECK(bench.steps == std::vector<std::string>{"begin", std::string("claim ") + kId,
                                                std::string("leave ") + kId, "commit", "end"});
  CHECK(bench.acks() == 1);
}

TEST_CASE("a message that is no event stops its batch before or after the claim") {
  Bench nameless;
  nameless.push("");
  CHECK(nameless.tried().end == Attempt::End::Stopped);
  CHECK(nameless.steps.empty());

  Bench broken;
  broken.push(kId, "product.created", "{");
  CHECK(broken.tried().end == Attempt::End::Stopped);
  CHECK(broken.steps == Steps{"begin", kClaim, "end"});
}

TEST_CASE("an event that can no longer be told from a duplicate is treated by the policy") {
  Bench strict;
  strict.remembered = false;
  strict.push();
  CHECK(strict.tried().end == Attempt::End::Stopped);
  CHECK(strict.steps.empty());

  Bench lenient;
  lenient.remembered = false;
  lenient.outsideWindow = OutsideWindowPolicy::Apply;
  lenient.push();
  CHECK(lenient.attempt() == Outcomes{Outcome::Applied});

  Bench careless;
  careless.remembered = false;
  careless.outsideWindow = OutsideWindowPolicy::Discard;
  careless.push();
  CHECK(careless.attempt() == Outcomes{Outcome::Discarded});
  CHECK(careless.steps.empty());
  CHECK(careless.acks() == 1);
}

TEST_CASE("waits between attempts grow by the factor up to the most, less the jitter") {
  const RetryPolicy policy{.maxAttempts = 5,
                           .first = milliseconds(100),
                           .factor = 3,
                           .most = milliseconds(500),
                           .jitter = 0.5};
  CHECK(retryWait(policy, 1, 0) == milliseconds(100));
  CHECK(retryWait(policy, 2, 0) == milliseconds(300));
  CHECK(retryWait(policy, 3, 0) == milliseconds(500));
  CHECK(retryWait(policy, 1'000, 0) == milliseconds(500));
  CHECK(retryWait(policy, 1, 1) == milliseconds(50));
}
