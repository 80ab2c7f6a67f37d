#include "inbox/delivery.hpp"

#include <doctest/doctest.h>

#include <pillion/error.hpp>

using namespace pillion;
using namespace pillion::inbox;
using Steps = std::vector<std::string>;

namespace {

constexpr const char* kId = "0197f22e-79b0-7cc3-98c4-dc0c0c07398f";

/// Writes down what is asked of it, and fails where it is told to.
struct Bench : Inbox, DeadLetterSink {
  struct Recorded : InboxTransaction {
    explicit Recorded(Bench& bench) : bench_(bench) {}
    Recorded(const Recorded&) = delete;
    Recorded& operator=(const Recorded&) = delete;
    ~Recorded() override { bench_.note("end"); }
    Claim claim(const std::string& id) override {
      bench_.note("claim " + id);
      return bench_.claimed;
    }
    void run(const Handler&, const Event& event) override { bench_.note("run " + event.type()); }
    void commit() override { bench_.note("commit"); }

   private:
    Bench& bench_;
  };

  bool remembers(const std::string&) const override { return remembered; }
  std::unique_ptr<InboxTransaction> begin() override {
    note("begin");
    return std::make_unique<Recorded>(*this);
  }
  void forgetOld() override {}
  void send(const amqp::Delivery&, const DeadLetterReason& reason) override {
    note("dead " + reason.reason);
  }

  void note(const std::string& step) {
    steps.push_back(step);
    if (step == failAt) throw BrokerError(step);
  }

  Outcome attempt() {
    const auto job = queue.pop(std::chrono::milliseconds(0), std::stop_token());
    REQUIRE(job);
    return attemptDelivery(*job, handlers, *this, *this, queue);
  }

  Bench() {
    queue.newChannel();
    amqp::Delivery delivery;
    delivery.tag = 3;
    delivery.message.messageId = kId;
    delivery.message.type = "product.created";
    delivery.message.contentType = "application/json";
    delivery.message.body = "1";
    pushed = delivery;
    handlers.add("product.*", [](const Event&, Transaction&) {});
  }

  Claim claimed = Claim::New;
  bool remembered = true;
  std::string failAt;
  Steps steps;
  HandlerTable handlers;
  base::WakeEvent wake;
  DeliveryQueue queue{wake};
  amqp::Delivery pushed;
};

}  // namespace

TEST_CASE("a new event is claimed, handled and committed, in this order, and then acked") {
  Bench bench;
  bench.queue.push(bench.pushed);
  CHECK(bench.attempt() == Outcome::Applied);
  CHECK(bench.steps ==
        Steps{"begin", std::string("claim ") + kId, "run product.created", "commit", "end"});
  CHECK(bench.queue.takeAcks() == std::vector<std::uint64_t>{3});
}

TEST_CASE("a duplicate is acked without calling the handler") {
  Bench bench;
  bench.claimed = Claim::Duplicate;
  bench.queue.push(bench.pushed);
  CHECK(bench.attempt() == Outcome::Duplicate);
  CHECK(bench.steps == Steps{"begin", std::string("claim ") + kId, "end"});
  CHECK(bench.queue.takeAcks().size() == 1);
}

TEST_CASE("an id that may have been applied and forgotten is rolled back and dead-lettered") {
  Bench bench;
  bench.claimed = Claim::Forgotten;
  bench.queue.push(bench.pushed);
  CHECK(bench.attempt() == Outcome::DeadLettered);
  CHECK(bench.steps ==
        Steps{"begin", std::string("claim ") + kId, "dead outside-dedupe-window", "end"});
  CHECK(bench.queue.takeAcks().size() == 1);
}

TEST_CASE("nothing is acked when any step fails") {
  for (const std::string step :
       {"begin", "claim 0197f22e-79b0-7cc3-98c4-dc0c0c07398f", "run product.created", "commit"}) {
    CAPTURE(step);
    Bench bench;
    bench.failAt = step;
    bench.queue.push(bench.pushed);
    CHECK_THROWS_AS(bench.attempt(), BrokerError);
    CHECK(bench.queue.takeAcks().empty());
  }
}

TEST_CASE("an event that nobody handles is acked without touching the database") {
  Bench bench;
  bench.pushed.message.type = "order.created";
  bench.queue.push(bench.pushed);
  CHECK(bench.attempt() == Outcome::Ignored);
  CHECK(bench.steps.empty());
  CHECK(bench.queue.takeAcks().size() == 1);
}

TEST_CASE("a message that is no event goes to the dead letters before it is acked") {
  Bench bench;
  bench.pushed.message.body = "{";
  bench.queue.push(bench.pushed);
  CHECK(bench.attempt() == Outcome::DeadLettered);
  CHECK(bench.steps == Steps{"dead invalid-event"});
  CHECK(bench.queue.takeAcks().size() == 1);

  Bench failing;
  failing.pushed.message.body = "{";
  failing.failAt = "dead invalid-event";
  failing.queue.push(failing.pushed);
  CHECK_THROWS_AS(failing.attempt(), BrokerError);
  CHECK(failing.queue.takeAcks().empty());
}

TEST_CASE("an event that can no longer be told from a duplicate is not applied") {
  Bench bench;
  bench.remembered = false;
  bench.queue.push(bench.pushed);
  CHECK(bench.attempt() == Outcome::DeadLettered);
  CHECK(bench.steps == Steps{"dead outside-dedupe-window"});
  CHECK(bench.queue.takeAcks().size() == 1);
}
