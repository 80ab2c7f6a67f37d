// Batches whose events are not alike, against a real inbox and without a broker.
#include <cstdio>
#include <future>

#include "consumer_fixture.hpp"
#include "inbox/delivery.hpp"
#include "inbox/postgres_inbox.hpp"

namespace pillion::test {
namespace {

using End = inbox::Attempt::End;
using Outcomes = std::vector<inbox::Outcome>;
using HandlerBody = std::function<void(const Event&, Transaction&)>;
constexpr std::chrono::hours kWindow{14 * 24};

/// What a worker has: an inbox, and a queue into which the test puts the deliveries.
struct Bench {
  explicit Bench(HandlerBody body) {
    queue.opened(0);
    handlers.add("#", [body = std::move(body)](const Event& event, Transaction& tx) {
      writeJournal(event, tx);
      body(event, tx);
    });
  }

  std::vector<inbox::Job> deliver(const std::vector<amqp::Message>& messages) {
    for (const amqp::Message& message : messages) {
      amqp::Delivery delivery;
      delivery.tag = ++tag;
      delivery.message = message;
      queue.push(std::move(delivery));
    }
    auto jobs = queue.pop({.events = 100}, 0ms, std::stop_token());
    queue.release(jobs);
    return jobs;
  }

  /// Events 1, 2, … of the keys a, b, …
  std::vector<inbox::Job> deliverNumbered(std::size_t count) {
    std::vector<amqp::Message> messages;
    for (std::size_t i = 0; i < count; ++i) {
      const std::string key(1, static_cast<char>('a' + i));
      messages.push_back(messageOf(Event("order.placed", {{"number", i + 1}}).setKey(key)));
    }
    return deliver(messages);
  }

  /// One event of this key that has failed and waits.
  void park(const std::string& key) {
    const auto jobs = deliver({messageOf(numberedEvents(1, key)[0])});
    REQUIRE(inbox::parkFailed(jobs[0], {"told to", ""}, 1h, handling()) == inbox::Outcome::Parked);
  }

  inbox::Handling handling() {
    return {.handlers = handlers,
            .inbox = inbox,
            .queue = queue,
            .watch = watch,
            .parked = ParkedPolicy::Hold,
            .outsideWindow = outsideWindow};
  }

  inbox::Attempt tried(std::span<const inbox::Job> jobs) {
    return inbox::attemptBatch(jobs, handling());
  }
  Outcomes attempt(std::span<const inbox::Job> jobs) { return tried(jobs).outcomes; }

  /// The batch stops and leaves nothing; each event alone is applied, except the culprit.
  void checkStops(std::span<const inbox::Job> jobs, std::size_t culprit) {
    const long before = world.inbox();
    CHECK(tried(jobs).end == End::Stopped);
    CHECK(world.journal() == 0);
    CHECK(world.inbox() == before);
    for (std::size_t i = 0; i < jobs.size(); ++i) {
      CAPTURE(i);
      if (i == culprit) {
        CHECK(tried(jobs.subspan(i, 1)).end == End::Stopped);
      } else {
        CHECK(attempt(jobs.subspan(i, 1)) == Outcomes{inbox::Outcome::Applied});
      }
    }
    CHECK(world.journal() == static_cast<long>(jobs.size()) - 1);
    CHECK(world.inbox() == before + world.journal());
  }

  World world;
  inbox::PostgresInbox inbox{world.database.options(), "bench", kWindow};
  OutsideWindowPolicy outsideWindow = OutsideWindowPolicy::DeadLetter;
  inbox::HandlerTable handlers;
  inbox::HandlerWatch watch;
  base::WakeEvent wake;
  inbox::DeliveryQueue queue{wake};
  std::uint64_t tag = 0;
};

bool isNumber(const Event& event, int number) {
  return event.data().at("number") == number;
}

/// libpqxx 6 does not notice that this failed.
void hideError(Transaction& tx) {
  try {
    tx.exec_params("select 1 / $1::int", 0);
  } catch (const std::exception&) {  // as if all were well
  }
}

}  // namespace

TEST_CASE("a hidden SQL error stops the batch, whether or not events are parked") {
  for (const bool parked : {false, true}) {
    CAPTURE(parked);
    Bench bench([](const Event& event, Transaction& tx) {
      if (isNumber(event, 2)) hideError(tx);
    });
    if (parked) bench.park("z");
    bench.checkStops(bench.deliverNumbered(4), 1);
  }
}

TEST_CASE("a handler that aborts stops its batch, whether or not events are parked") {
  for (const bool parked : {false, true}) {
    CAPTURE(parked);
    Bench bench([](const Event& event, Transaction& tx) {
      if (isNumber(event, 2)) tx.abort();
    });
    if (parked) bench.park("z");
    bench.checkStops(bench.deliverNumbered(4), 1);
  }
}

TEST_CASE("handlers that commit do not disturb their neighbours, nor those that hold events back") {
  Bench bench([](const Event& event, Transaction& tx) {
    if (!isNumber(event, 3)) tx.commit();
  });
  bench.park("b");
  const auto jobs = bench.deliverNumbered(4);
  using inbox::Outcome;
  CHECK(bench.tried(jobs).end == End::Holds);
  CHECK(bench.attempt(std::span(jobs).subspan(1, 1)) == Outcomes{Outcome::Held});
  const std::vector<inbox::Job> others{jobs[0], jobs[2], jobs[3]};
  CHECK(bench.attempt(others) == Outcomes{Outcome::Applied, Outcome::Applied, Outcome::Applied});
  CHECK(bench.world.journal() == 3);
  CHECK(bench.world.inbox() == 5);
  CHECK(bench.world.parked() == 2);
}

TEST_CASE("a hidden SQL error behind a neighbour that commits loses neither of them") {
  Bench bench([](const Event& event, Transaction& tx) {
    if (isNumber(event, 1)) tx.commit();
    if (isNumber(event, 2)) hideError(tx);
  });
  bench.checkStops(bench.deliverNumbered(2), 1);
}

TEST_CASE("an event behind one of its batch that fails is not parked with it") {
  Bench bench([](const Event& event, Transaction&) {
    if (isNumber(event, 1)) throw std::runtime_error("told to");
  });
  bench.park("z");
  const auto events = numberedEvents(2, "a");
  const auto jobs = bench.deliver({messageOf(events[0]), messageOf(events[1])});
  CHECK(bench.tried(jobs).end == End::Stopped);
  CHECK(bench.world.parked() == 1);
  CHECK(bench.world.inbox() == 1);
}

TEST_CASE("an event is held behind one that was parked while its batch waited for the claim") {
  Bench bench([](const Event&, Transaction&) {});
  const auto events = numberedEvents(2, "a");
  const auto jobs = bench.deliver({messageOf(events[0]), messageOf(events[1])});
  // The instance that had the queue before has not quite ended.
  inbox::PostgresInbox before(bench.world.database.options(), "bench", kWindow);
  const auto parking = before.begin();
  const amqp::Identity* first = jobs[0].event();
  REQUIRE(parking->claim(std::span(&first, 1), 1s).value().front() == inbox::Claim::New);
  parking->park(jobs[0], *first, {"told to", ""}, 1h);
  auto attempt = std::async(std::launch::async, [&] { return bench.attempt(jobs); });
  REQUIRE(eventually(900ms, [&] {
    return bench.world.database.count(
               "select count(*) from pg_stat_activity where wait_event_type = 'Lock'") == 1;
  }));
  parking->commit();
  CHECK(attempt.get() == Outcomes{inbox::Outcome::Duplicate, inbox::Outcome::Held});
  CHECK(bench.world.parked() == 2);
  CHECK(bench.world.journal() == 0);
}

namespace {

/// A message whose id has left the window; the inbox may have forgotten it, and says so.
amqp::Message forgottenMessage(Bench& bench) {
  // 17 days ago, as an id of version 7 has it: 48 bits of milliseconds.
  const auto made = std::chrono::system_clock::now() - std::chrono::hours(17 * 24);
  const auto ms =
      std::chrono::duration_cast<std::chrono::milliseconds>(made.time_since_epoch()).count();
  char id[48];
  std::snprintf(id, sizeof id, "%08llx-%04llx-7cc3-98c4-dc0c0c07398f",
                static_cast<unsigned long long>(ms) >> 16U,
                static_cast<unsigned long long>(ms) & 0xFFFFU);
  bench.world.database.execute(
      "insert into pillion.inbox (consumer, event_id, source) values ('other', '" +
      std::string(id) + "', 's')");
  bench.inbox.forgetOld();
  REQUIRE(bench.world.inbox() == 0);
  REQUIRE_FALSE(bench.inbox.remembers(id));
  auto message = messageOf(numberedEvents(1)[0]);
  message.messageId = id;
  return message;
}

}  // namespace

TEST_CASE("an event beyond the horizon that an operator sends again is applied, and once") {
  Bench bench([](const Event&, Transaction&) {});
  auto message = forgottenMessage(bench);
  CHECK(bench.tried(bench.deliver({message})).end == End::Stopped);
  message.headers.emplace_back("pillion-outside-window", "apply");
  using inbox::Outcome;
  CHECK(bench.attempt(bench.deliver({message})) == Outcomes{Outcome::Applied});
  CHECK(bench.attempt(bench.deliver({message})) == Outcomes{Outcome::Duplicate});
  CHECK(bench.world.journal() == 1);
}

TEST_CASE("an event beyond the horizon is applied or discarded where the policy says so") {
  using inbox::Outcome;
  Bench applies([](const Event&, Transaction&) {});
  applies.outsideWindow = OutsideWindowPolicy::Apply;
  const auto first = forgottenMessage(applies);
  CHECK(applies.attempt(applies.deliver({first})) == Outcomes{Outcome::Applied});
  CHECK(applies.attempt(applies.deliver({first})) == Outcomes{Outcome::Duplicate});
  CHECK(applies.world.journal() == 1);

  Bench discards([](const Event&, Transaction&) {});
  discards.outsideWindow = OutsideWindowPolicy::Discard;
  const auto second = forgottenMessage(discards);
  CHECK(discards.attempt(discards.deliver({second})) == Outcomes{Outcome::Discarded});
  CHECK(discards.world.journal() == 0);
  CHECK(discards.queue.takeAcks().size() == 1);
}

TEST_CASE("an event whose type was left here before is taken after others had their chance") {
  Bench bench([](const Event&, Transaction&) {});
  bench.park("k");
  const auto dueSince = [&](const std::string& since) {
    bench.world.database.execute(
        "update pillion.inbox_parked set next_attempt_at = now() - interval '" + since + "'");
  };
  dueSince("200 ms");
  CHECK_FALSE(bench.inbox.takeDue({"other", "order.placed"}));
  CHECK(bench.inbox.takeDue({"other"}));
  dueSince("1600 ms");
  CHECK(bench.inbox.takeDue({"other", "order.placed"}));
}

TEST_CASE("an event that is forgotten between the look at its id and its claim is discarded") {
  Bench bench([](const Event&, Transaction&) {});
  bench.outsideWindow = OutsideWindowPolicy::Discard;
  const auto message = forgottenMessage(bench);
  bench.world.database.execute("update pillion.inbox_horizon set horizon = 'epoch'");
  inbox::PostgresInbox unaware(bench.world.database.options(), "bench",
                               std::chrono::hours(20 * 24));
  bench.world.database.execute("update pillion.inbox_horizon set horizon = now()");
  REQUIRE(unaware.remembers(message.messageId));
  auto with = bench.handling();
  const inbox::Handling handling{.handlers = with.handlers,
                                 .inbox = unaware,
                                 .queue = with.queue,
                                 .watch = with.watch,
                                 .parked = with.parked,
                                 .outsideWindow = with.outsideWindow};
  CHECK(inbox::attemptBatch(bench.deliver({message}), handling).outcomes ==
        Outcomes{inbox::Outcome::Discarded});
  CHECK(bench.world.journal() == 0);
}

}  // namespace pillion::test
