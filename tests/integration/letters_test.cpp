// Dead letters on their way to the broker: what the dead-letter queue or PostgreSQL refuses holds
// up nothing else, and adds no copies.
#define PILLION_TEST_MAIN
#include <semaphore>

#include "base/failpoint.hpp"
#include "consumer_fixture.hpp"
#include "support/tcp_gate.hpp"

namespace pillion::test {
namespace {

/// Rejects events of the key "bad", fails those of the key "failing", and else writes the journal.
std::unique_ptr<EventConsumer> choosyConsumer(const ConsumerOptions& options,
                                              const std::string& service) {
  auto consumer = EventConsumer::create(service, {"#"}, options);
  consumer->onEvent("#", [](const Event& event, Transaction& tx) {
    if (event.key() == "bad") throw RejectEvent("bad");
    if (event.key() == "failing") throw std::runtime_error("failing");
    writeJournal(event, tx);
  });
  consumer->start();
  return consumer;
}

long deadOf(const EventConsumer& consumer) {
  return Servers::mq().queueDepth(consumer.queue() + ".dead");
}

/// Messages that are no events.
std::vector<amqp::Message> invalidMessages(std::size_t count) {
  std::vector<amqp::Message> messages;
  for (const Event& event : numberedEvents(count)) {
    messages.push_back(messageOf(event));
    messages.back().body = "{";
  }
  return messages;
}

}  // namespace

TEST_CASE("messages that are no events hold up no event while the dead-letter queue is full") {
  const World world;
  const LogCapture log;
  const auto consumer = choosyConsumer(world.consumerOptions(), "full");
  {
    const Policy policy(R"({"max-length":1,"overflow":"reject-publish"})", "policy", "dead$");
    send(world.exchange, invalidMessages(6));
    send(world.exchange, numberedEvents(10, "good"));
    CHECK(eventually(10s, [&] { return world.journal() == 10; }));
    CHECK(eventually(10s, [&] { return log.count("takes no message") == 1; }));
    CHECK(world.letters() > 0);
    CHECK(eventually(5s, [&] { return consumer->stats().deadLettered == 6; }));
  }
  CHECK(eventually(60s, [&] { return world.letters() == 0; }));
  CHECK(deadOf(*consumer) == 6);
}

TEST_CASE("a dead-letter queue that does not answer holds up no event, and gets each letter once") {
  const World world;
  const LogCapture log;
  auto options = world.consumerOptions();
  options.broker.stallTimeout = 6s;
  const auto consumer = choosyConsumer(options, "silent");
  {
    const support::SuspendedQueue hung(Servers::mq(), "silent.events.dead");
    for (long round = 1; round <= 3; ++round) {
      send(world.exchange, numberedEvents(1, "bad"));
      send(world.exchange, numberedEvents(10, "good"));
      CHECK(eventually(5s, [&] { return world.journal() == 10 * round; }));
    }
    CHECK(eventually(15s, [&] { return log.count("gave no confirm within 6000 ms") == 1; }));
    // No transaction is open meanwhile, and no row locked.
    CHECK(world.database.count("select count(*) from pg_stat_activity where state like 'idle in"
                               " transaction%' and application_name like '%dead letters%'") == 0);
  }
  CHECK(eventually(30s, [&] { return world.letters() == 0; }));
  CHECK(deadOf(*consumer) == 3);
  CHECK(log.count("consumer 'silent.events', dead letters goes on") == 1);
}

TEST_CASE("a role that may not delete piles up no copies, and other events go on") {
  for (const std::string table : {"inbox", "inbox_parked", "inbox_dead"}) {
    CAPTURE(table);
    const World world;
    const LogCapture log;
    const std::string role = uniqueName("role");
    const std::string to = " to \"" + role + "\"";
    world.database.execute("create role \"" + role + "\" login password 'role'; grant all on" +
                           " schema pillion" + to + "; grant all on all tables in schema pillion," +
                           " public" + to + "; grant all on all sequences in schema pillion," +
                           " public" + to + "; revoke delete on pillion." + table + " from \"" +
                           role + "\"");
    auto options = world.consumerOptions();
    options.database.url = Servers::pg().urlAs(role, "role", world.database.name());
    const auto consumer = choosyConsumer(options, uniqueName("undeleting"));
    send(world.exchange, numberedEvents(1, "failing"));
    send(world.exchange, numberedEvents(1, "bad"));
    REQUIRE(
        eventually(20s, [&] { return log.count("permission denied for table " + table) >= 1; }));
    send(world.exchange, numberedEvents(5, "good"));
    CHECK(eventually(20s, [&] { return world.journal() == 5; }));
    const long expected = table == "inbox_parked" ? 1 : 0;  // the rejected one was never parked
    CHECK(eventually(20s, [&] { return deadOf(*consumer) == expected; }));
    CHECK(holdsFor(3s, [&] { return deadOf(*consumer) == expected; }));
    world.database.execute("grant delete on pillion." + table + to);
    CHECK(eventually(60s, [&] { return world.parked() + world.letters() == 0; }));
    CHECK(deadOf(*consumer) == 2);
  }
}

TEST_CASE("one letter that cannot be read, removed or sent holds up none of the others") {
  const World world;
  const LogCapture log;
  declareOnly(world, "odd");
  auto bad = numberedEvents(6, "bad");
  bad.insert(bad.begin() + 3,
             Event("order.placed", {{"text", std::string(200'000, 'x')}}).setKey("bad"));
  send(world.exchange, bad);
  MessageLimit limit(100'000);
  world.database.execute(
      "create function keep() returns trigger language plpgsql as $$ begin"
      " if old.reason = 'unremovable' then raise 'not this one'; end if; return old; end $$;"
      " create trigger keep before delete on pillion.inbox_dead for each row execute function"
      " keep();"
      " insert into pillion.inbox_dead (consumer, message, reason, error, attempts)"
      " select 'odd.events', '\\x00', reason, '', 1 from (values ('unreadable'), ('unremovable'))"
      " as r(reason)");
  const auto consumer = choosyConsumer(world.consumerOptions(), "odd");
  CHECK(eventually(30s, [&] { return deadOf(*consumer) == 6; }));
  CHECK(holdsFor(2s, [&] { return deadOf(*consumer) == 6; }));
  CHECK(world.letters() == 3);
  CHECK(log.count("of inbox_dead cannot be sent: ") == 3);
  CHECK(log.count("waits: ") == 0);
  limit.set(MessageLimit::kMost);
  world.database.execute(
      "drop trigger keep on pillion.inbox_dead; delete from pillion.inbox_dead where reason like"
      " 'un%'; update pillion.inbox_dead set next_send_at = now()");
  CHECK(eventually(30s, [&] { return deadOf(*consumer) == 7 && world.letters() == 0; }));
}

TEST_CASE("an operator gives a parked event up, and the next of its key follows") {
  const World world;
  auto options = world.consumerOptions();
  options.retry = {.maxAttempts = 5, .first = 60s, .factor = 1, .most = 60s};
  const auto consumer = EventConsumer::create("impatient", {"#"}, options);
  consumer->onEvent("#", [](const Event& event, Transaction& tx) {
    if (event.data().at("number") == 1) throw std::runtime_error("not now");
    writeJournal(event, tx);
  });
  consumer->start();
  const auto events = numberedEvents(2, "a");
  send(world.exchange, events);
  REQUIRE(eventually(20s, [&] { return world.parked() == 2; }));
  CHECK(readInboxStatus(world.database.options())[0].held == 1);
  CHECK(
      world.database.query("select pillion.give_up(seq) from pillion.inbox_parked where event_id ="
                           " '" +
                           events[0].id() + "'") == "t");
  CHECK(eventually(20s, [&] { return world.journal() == 1 && world.parked() == 0; }));
  const auto letters = readDeadLetters(consumer->queue(), 1);
  REQUIRE(letters.size() == 1);
  CHECK(header(letters[0], "pillion-dead-reason") == "given-up");
  CHECK(header(letters[0], "pillion-dead-error") == "not now");
  CHECK(header(letters[0], "pillion-dead-attempts") == "1");
  CHECK(world.inbox() == 1);
}

TEST_CASE("while the broker blocks publishers a dead letter holds up no event of other keys") {
  const World world;
  const LogCapture log;
  auto options = world.consumerOptions();
  options.batchEvents = 1;
  const auto consumer = EventConsumer::create("flooded", {"#"}, options);
  std::binary_semaphore begun{0};
  std::binary_semaphore proceed{0};
  consumer->onEvent("#", [&](const Event& event, Transaction& tx) {
    if (event.key() != "bad") return writeJournal(event, tx);
    begun.release();
    proceed.acquire();
    throw RejectEvent("bad");
  });
  consumer->start();
  send(world.exchange, numberedEvents(1, "bad"));
  begun.acquire();
  send(world.exchange, numberedEvents(5, "good"));
  {
    const MemoryAlarm alarm;
    proceed.release();
    CHECK(eventually(10s, [&] { return world.journal() == 5; }));
    CHECK(world.letters() == 1);
    CHECK(eventually(10s, [&] { return log.count("RabbitMQ blocks publishers") == 1; }));
  }
  CHECK(eventually(10s, [&] { return Servers::mq().queueDepth("flooded.events.dead") >= 1; }));
}

TEST_CASE("a letter that was sent while publishers are blocked is there once afterwards") {
  const World world;
  auto options = world.consumerOptions();
  options.broker.stallTimeout = 300ms;
  const LogCapture log;
  const auto consumer = journalConsumer(options, "siege");
  consumer->start();
  std::optional<MemoryAlarm> alarm;
  {
    base::failpoint::arm("delivery.received=delay(1000)@1");
    auto invalid = messageOf(numberedEvents(1)[0]);
    invalid.messageId = "no-uuid";
    send(world.exchange, std::vector<amqp::Message>{invalid});
    alarm.emplace();
  }
  REQUIRE(eventually(10s, [&] { return log.count("RabbitMQ blocks publishers") == 1; }));
  CHECK(eventually(5s, [&] { return consumer->stats().deadLettered == 1; }));
  CHECK(eventually(10s, [&] { return Servers::mq().queueDepth(consumer->queue()) == 0; }));
  CHECK(holdsFor(4s, [&] { return world.letters() == 1; }));  // time for many attempts
  alarm.reset();
  base::failpoint::disarm();
  CHECK(eventually(20s, [&] { return world.letters() == 0; }));
  CHECK(Servers::mq().queueDepth("siege.events.dead") == 1);
  CHECK(log.count("went to the dead-letter queue") == 1);
}

TEST_CASE("a given-up event that PostgreSQL does not let go adds no letter, and waits alone") {
  const World world;
  const LogCapture log;
  world.database.execute(
      "create sequence public.refusals; create function public.refuse() returns trigger language"
      " plpgsql as $$ begin perform nextval('public.refusals'); raise 'not this one'; end $$;"
      " create trigger kept before delete on pillion.inbox_parked for each row execute function"
      " public.refuse()");
  const auto consumer = EventConsumer::create("kept", {"#"}, world.consumerOptions());
  consumer->onEvent("#", [](const Event& event, Transaction& tx) {
    if (event.key() == "bad") throw std::runtime_error("bad");
    writeJournal(event, tx);
  });
  consumer->start();
  send(world.exchange, numberedEvents(1, "bad"));
  REQUIRE(eventually(
      30s, [&] { return world.database.count("select last_value from public.refusals") >= 3; }));
  send(world.exchange, numberedEvents(5, "good"));
  CHECK(eventually(20s, [&] { return world.journal() == 5; }));
  CHECK(Servers::mq().queueDepth("kept.events.dead") == 0);
  CHECK(log.count("cannot go to the dead-letter queue: ") == 1);
  world.database.execute("drop trigger kept on pillion.inbox_parked");
  CHECK(eventually(20s, [&] { return world.parked() == 0; }));
  CHECK(eventually(20s, [&] { return Servers::mq().queueDepth("kept.events.dead") == 1; }));
}

TEST_CASE("letters that the dead-letter queue does not take make few connections, and then go") {
  const World world;
  const LogCapture log;
  support::TcpGate gate(Servers::mq().port());
  auto options = world.consumerOptions();
  options.workers = 1;
  const auto rejecting = [&] {
    auto consumer = EventConsumer::create("choked", {"#"}, options);
    consumer->onEvent("#", [](const Event& event, Transaction& tx) {
      if (event.key() == "bad") throw RejectEvent("bad");
      writeJournal(event, tx);
    });
    consumer->start();
    return consumer;
  };
  rejecting()->stop();  // it has declared the queues
  options.broker.declareTopology = false;
  options.broker.url = "amqp://guest:guest@127.0.0.1:" + std::to_string(gate.port());
  const auto consumer = rejecting();
  Servers::mq().deleteQueue("choked.events.dead");
  send(world.exchange, numberedEvents(40, "bad"));
  send(world.exchange, numberedEvents(5, "good"));
  CHECK(eventually(20s, [&] { return world.journal() == 5 && world.letters() == 40; }));
  REQUIRE(eventually(20s, [&] { return log.count("takes no message") == 1; }));
  CHECK(holdsFor(3s, [&] { return gate.accepted() < 10; }));
  declareOnly(world, "choked");
  CHECK(eventually(60s, [&] { return world.letters() == 0; }));
  CHECK(Servers::mq().queueDepth("choked.events.dead") == 40);
}

}  // namespace pillion::test
