// Messages that are no valid events, and ids that the inbox does or does not remember.
#include <thread>

#include "base/random.hpp"
#include "consumer_fixture.hpp"
#include "event/event_id.hpp"
#include "inbox/postgres_inbox.hpp"

namespace pillion::test {
namespace {

using namespace std::chrono_literals;
using std::chrono::hours;

/// Wall time that the test sets.
class SetClock : public base::Clock {
 public:
  explicit SetClock(Wall wall) : wall_(wall) {}
  [[nodiscard]] Wall wall() const override { return wall_; }
  [[nodiscard]] Boot boot() const override { return base::systemClock().boot(); }

 private:
  Wall wall_;
};

/// An id of version 7 that was made so long ago.
std::string idOfAge(std::chrono::milliseconds age) {
  return makeEventId(SetClock(std::chrono::system_clock::now() - age));
}

/// Sends the message and a good event behind it; the first must die with this reason, the second
/// must be applied.
amqp::Message checkDies(const amqp::Message& bad, const std::string& reason,
                        const std::string& error) {
  const World world;
  const std::string service = uniqueName("strict");
  const auto consumer = journalConsumer(world, service);
  consumer->start();
  send(world.exchange, std::vector<amqp::Message>{bad, messageOf(numberedEvents(1)[0])});
  CHECK(eventually(20s, [&] { return world.journal() == 1; }));
  CHECK(eventually(20s, [&] { return Servers::mq().queueDepth(consumer->queue()) == 0; }));
  CHECK(consumer->stats().deadLettered == 1);
  CHECK(consumer->stats().applied == 1);
  const auto letters = readDeadLetters(consumer->queue(), 1);
  REQUIRE(letters.size() == 1);
  CHECK(header(letters[0], "pillion-dead-reason") == reason);
  CHECK(header(letters[0], "pillion-dead-error").find(error) != std::string::npos);
  CHECK(letters[0].body == bad.body);
  return letters[0];
}

amqp::Message goodMessage() {
  return messageOf(numberedEvents(1)[0]);
}

}  // namespace

TEST_CASE("a message without message_id dies, and the next event is applied") {
  auto message = goodMessage();
  message.messageId.clear();
  checkDies(message, "invalid-event", "message_id");
}

TEST_CASE("a message whose id is no UUID dies, and the next event is applied") {
  auto message = goodMessage();
  message.messageId = "'; drop table journal; --";
  checkDies(message, "invalid-event", "UUID");
  message.messageId = std::string(255, 'x');
  checkDies(message, "invalid-event", "UUID");
}

TEST_CASE("a message whose JSON is none dies, and the next event is applied") {
  auto message = goodMessage();
  for (const std::string& body : {std::string("{\"number\": "), std::string(),
                                  std::string("\xff\xfe\x00\x01", 4), std::string("<order/>")}) {
    message.body = body;
    checkDies(message, "invalid-event", "JSON");
  }
}

TEST_CASE("a message whose JSON is nested a hundred thousand levels deep dies by itself") {
  auto message = goodMessage();
  message.body = std::string(100'000, '[') + std::string(100'000, ']');
  checkDies(message, "invalid-event", "nested");
}

TEST_CASE("a message of a content type that its handler cannot read dies after its attempts") {
  auto message = goodMessage();
  message.contentType = "text/plain";
  const World world;
  const auto consumer = EventConsumer::create("reader", {"#"}, world.consumerOptions());
  consumer->onEvent("#", [](const Event& event, Transaction& tx) {
    if (event.data().empty()) throw std::logic_error("not reached");
    writeJournal(event, tx);
  });
  consumer->start();
  send(world.exchange, std::vector<amqp::Message>{message, goodMessage()});
  CHECK(eventually(20s, [&] { return world.journal() == 1; }));
  const auto letters = readDeadLetters(consumer->queue(), 1);
  REQUIRE(letters.size() == 1);
  CHECK(header(letters[0], "pillion-dead-reason") == "handler-failed");
  CHECK(header(letters[0], "pillion-dead-error").find("data") != std::string::npos);
  CHECK(letters[0].contentType == "text/plain");
}

TEST_CASE("a bad message with more headers than can be sent again dies with its reason") {
  auto message = goodMessage();
  message.messageId.clear();
  message.headers.emplace_back("small", "kept");
  message.headers.emplace_back("huge", std::string(120'000, 'h'));
  const auto letter = checkDies(message, "invalid-event", "message_id");
  CHECK(header(letter, "small") == "kept");
  CHECK(header(letter, "huge") == "(none)");
}

TEST_CASE("a dead letter keeps what the message came with and loses the broker's own headers") {
  auto message = goodMessage();
  message.messageId = "no-uuid";
  message.correlationId = "correlation";
  message.timestamp = 1'700'000'000;
  message.headers.emplace_back("tenant", "acme");
  message.headers.emplace_back("x-death", "made up");
  message.headers.emplace_back("pillion-dead-reason", "made up too");
  const auto letter = checkDies(message, "invalid-event", "UUID");
  CHECK(letter.messageId == "no-uuid");
  CHECK(letter.type == "order.placed");
  CHECK(letter.appId == "test");
  CHECK(letter.correlationId == "correlation");
  CHECK(letter.timestamp == 1'700'000'000);
  CHECK(header(letter, "tenant") == "acme");
  CHECK(header(letter, "x-death") == "(none)");
}

TEST_CASE("a message with strange properties does not stop the consumer") {
  const World world;
  const auto consumer = journalConsumer(world, "unmoved");
  consumer->start();
  auto message = goodMessage();
  message.type = std::string("bad\xff\x01type\x00", 9);
  message.headers.emplace_back("", "a header without a name");
  message.headers.emplace_back("traceparent", "no trace");
  message.headers.emplace_back("cloudEvents_time", "yesterday");
  message.headers.emplace_back("cloudEvents_partitionkey", std::string("\xc3\x28", 2));
  send(world.exchange, std::vector<amqp::Message>{message, goodMessage()});
  // Its key is no UTF-8, so PostgreSQL refuses the handler's row.
  CHECK(eventually(20s, [&] { return consumer->stats().applied >= 1; }));
  CHECK(eventually(20s, [&] { return Servers::mq().queueDepth(consumer->queue()) == 0; }));
  CHECK(consumer->stats().applied + consumer->stats().deadLettered == 2);
  CHECK(world.journal() == static_cast<long>(consumer->stats().applied));
}

TEST_CASE("an event older than the dedupe window is not applied but dead-lettered") {
  auto message = goodMessage();
  message.messageId = idOfAge(hours(14 * 24 + 1));
  checkDies(message, "outside-dedupe-window", "");
}

TEST_CASE("an event from further in the future than clocks can differ is dead-lettered") {
  auto message = goodMessage();
  message.messageId = idOfAge(-hours(30));
  checkDies(message, "outside-dedupe-window", "");
}

TEST_CASE("an event that was due twenty days after it was written is applied by every consumer") {
  const World world;
  const auto publisher =
      EventPublisher::create("test-service", {.database = world.database.options()});
  auto options = world.consumerOptions();
  options.dedupeWindow = hours(24);  // the shortest
  const auto consumer = journalConsumer(options, "patient");
  consumer->start();
  publisher->publish(
      numberedEvents(1)[0].setDeliverAt(std::chrono::system_clock::now() + hours(20 * 24)));
  world.database.execute(
      "select pillion.publish('order.placed', '{\"n\": 2}', source => 's',"
      " deliver_at => now() + interval '20 days')");
  REQUIRE(world.database.count("select count(*) from pillion.scheduled") == 2);
  // Twenty days pass for the rows: all times in them, that of the id too, are so much earlier.
  world.database.execute(
      "update pillion.scheduled s set deliver_at = deliver_at - interval '20 days', event_id ="
      " (lpad(to_hex(('x' || lpad(left(r.id, 12), 16, '0'))::bit(64)::bigint - 1728000000), 12, "
      "'0')"
      " || substr(r.id, 13))::uuid"
      " from (select id as row_id, replace(event_id::text, '-', '') as id from pillion.scheduled) r"
      " where r.row_id = s.id");
  const auto relay = Relay::create(relayOptions(world.database, world.exchange));
  relay->start();
  CHECK(eventually(
      20s, [&] { return consumer->stats().applied + consumer->stats().deadLettered == 2; }));
  CHECK(consumer->stats().deadLettered == 0);
  CHECK(world.journal() == 2);
}

TEST_CASE("an event at the far end of the dedupe window is applied once") {
  const World world;
  const auto consumer = journalConsumer(world, "old-but-welcome");
  consumer->start();
  auto message = goodMessage();
  message.messageId = idOfAge(hours(14 * 24 - 1));
  send(world.exchange, std::vector<amqp::Message>{message, message});
  CHECK(eventually(20s, [&] { return consumer->stats().duplicates == 1; }));
  CHECK(world.journal() == 1);
  CHECK(consumer->stats().deadLettered == 0);
}

namespace {

inbox::Claim claimOf(inbox::InboxTransaction& transaction, const std::string& id,
                     const std::string& source) {
  const amqp::Identity identity{id, source, "", "order.placed"};
  const amqp::Identity* event = &identity;
  return transaction.claim(std::span(&event, 1), 1s).value().front();
}

/// The inbox of a consumer, used without a broker.
struct Memory {
  bool apply(const std::string& id, const std::string& source = "source") {
    const auto transaction = inbox.begin();
    const bool isNew = claimOf(*transaction, id, source) == inbox::Claim::New;
    transaction->commit();
    return isNew;
  }
  [[nodiscard]] bool stored(const std::string& id) const {
    return world.database.count("select count(*) from pillion.inbox where event_id = '" + id +
                                "'") == 1;
  }

  World world;
  inbox::PostgresInbox inbox{world.database.options(), "memory", hours(14 * 24)};
};

/// A child covers 18.6 hours, so an id may stay that much longer than the window and its slack.
constexpr hours kSurelyGone{14 * 24 + 1 + 19};

}  // namespace

TEST_CASE(
    "duplicates arriving while a child is emptied: inside the window absorbed, outside dead") {
  const World world;
  const auto consumer = journalConsumer(world, "memory");
  consumer->start();
  std::vector<amqp::Message> inside;
  std::vector<amqp::Message> outside;
  for (int i = 0; i < 20; ++i) {
    inside.push_back(goodMessage());
    inside.back().messageId = idOfAge(hours(14 * 24 - 2) - std::chrono::minutes(i));
    outside.push_back(goodMessage());
    outside.back().messageId = idOfAge(hours(17 * 24) + std::chrono::minutes(i));
    // Applied when it was young.
    world.database.execute(
        "insert into pillion.inbox (consumer, event_id, source) values ('memory.events', '" +
        outside.back().messageId + "', 'test')");
  }
  send(world.exchange, inside);
  REQUIRE(eventually(20s, [&] { return world.journal() == 20; }));
  inbox::PostgresInbox other(world.database.options(), "memory.events", hours(14 * 24));
  std::jthread forgetter([&] { other.forgetOld(); });
  for (int round = 0; round < 5; ++round) {
    send(world.exchange, inside);
    send(world.exchange,
         std::span<const amqp::Message>(outside).subspan(static_cast<std::size_t>(round) * 4, 4));
  }
  forgetter.join();
  CHECK(eventually(20s, [&] { return consumer->stats().duplicates == 100; }));
  CHECK(eventually(20s, [&] { return consumer->stats().deadLettered == 20; }));
  CHECK(world.journal() == 20);
  CHECK(world.inbox() == 20);  // the old ones are gone, the young ones are not
}

TEST_CASE("forgetting empties the children that left the window and keeps every younger id") {
  Memory memory;
  std::map<int, std::string> byAge;  // hours
  for (int age = 0; age <= 22 * 24; age += 6) {
    byAge[age] = idOfAge(hours(age));
    REQUIRE(memory.apply(byAge[age]));
  }
  memory.inbox.forgetOld();
  int forgotten = 0;
  for (const auto& [age, id] : byAge) {
    CAPTURE(age);
    if (hours(age) <= hours(14 * 24)) CHECK(memory.stored(id));
    if (hours(age) > kSurelyGone) CHECK_FALSE(memory.stored(id));
    // What is no longer stored must not be taken for new.
    if (!memory.stored(id)) CHECK_FALSE(memory.inbox.remembers(id));
    if (memory.stored(id)) CHECK_FALSE(memory.apply(id));
    forgotten += memory.stored(id) ? 0 : 1;
  }
  CHECK(forgotten >= 20);
}

TEST_CASE("another consumer with a longer window does not take a forgotten id for new") {
  Memory memory;
  const std::string old = idOfAge(hours(17 * 24));
  REQUIRE(memory.apply(old));
  memory.inbox.forgetOld();
  REQUIRE_FALSE(memory.stored(old));
  const inbox::PostgresInbox other(memory.world.database.options(), "other", hours(20 * 24));
  CHECK_FALSE(other.remembers(old));
  CHECK(other.remembers(idOfAge(hours(13 * 24))));
}

TEST_CASE("a consumer's shorter window does not take from a neighbour what that remembers") {
  for (const std::string neighbour : {"neighbour", "memory"}) {  // or an instance of its own
    CAPTURE(neighbour);
    Memory memory;
    inbox::PostgresInbox longer(memory.world.database.options(), neighbour, hours(20 * 24));
    inbox::PostgresInbox shortest(memory.world.database.options(), "short", hours(24));
    const std::string old = idOfAge(hours(17 * 24));
    REQUIRE(memory.apply(old));
    memory.inbox.forgetOld();
    shortest.forgetOld();
    CHECK(memory.stored(old));
    CHECK(longer.remembers(old));
    // Nobody has heard of it for longer than any window.
    memory.world.database.execute(
        "update pillion.inbox_window set seen_at = now() - interval '26 days' where hours = 480");
    memory.inbox.forgetOld();
    CHECK_FALSE(memory.stored(old));
  }
}

TEST_CASE("a window that was made shorter holds as soon as no instance says the longer one") {
  Memory memory;
  { const inbox::PostgresInbox longer(memory.world.database.options(), "memory", hours(20 * 24)); }
  const std::string old = idOfAge(hours(17 * 24));
  REQUIRE(memory.apply(old));
  memory.inbox.forgetOld();
  CHECK(memory.stored(old));
  memory.world.database.execute(
      "update pillion.inbox_window set seen_at = seen_at - interval '4 hours'");
  memory.inbox.forgetOld();
  CHECK_FALSE(memory.stored(old));
  CHECK(memory.world.database.query("select hours from pillion.inbox_window") == "336");
}

TEST_CASE("an instance whose clock is wrong moves neither the horizon nor the window") {
  for (const auto ahead : {hours(31 * 24), hours(-31 * 24), hours(400 * 24)}) {
    CAPTURE(ahead.count());
    Memory memory;
    const std::string young = idOfAge(hours(1));
    const std::string old = idOfAge(hours(13 * 24));
    REQUIRE(memory.apply(young));
    REQUIRE(memory.apply(old));
    const SetClock wrong(base::systemClock().wall() + ahead);
    inbox::PostgresInbox astray(memory.world.database.options(), "astray", hours(14 * 24), wrong);
    astray.forgetOld();
    CHECK(memory.stored(young));
    CHECK(memory.stored(old));
    CHECK(memory.inbox.remembers(idOfAge(hours(0))));
    CHECK(astray.remembers(idOfAge(hours(0))));
    CHECK_FALSE(astray.remembers(idOfAge(hours(15 * 24))));
    CHECK(memory.world.database.count(
              "select count(*) from pillion.inbox_horizon where horizon > now()") == 0);
  }
}

TEST_CASE("an id that another consumer's shorter window has forgotten since is not applied again") {
  Memory memory;
  inbox::PostgresInbox longer(memory.world.database.options(), "memory", hours(20 * 24));
  memory.world.database.execute("delete from pillion.inbox_window");  // it was never heard of
  const std::string old = idOfAge(hours(17 * 24));
  REQUIRE(memory.apply(old));
  // It remembers the horizon as it was when it connected.
  memory.inbox.forgetOld();
  REQUIRE_FALSE(memory.stored(old));
  CHECK(longer.remembers(old));
  CHECK(claimOf(*longer.begin(), old, "source") == inbox::Claim::Forgotten);
  CHECK_FALSE(memory.stored(old));
}

TEST_CASE("forgetting does not wait for a session that uses an old child, and comes back to it") {
  Memory memory;
  const std::string inUse = idOfAge(hours(18 * 24));
  const std::string other = idOfAge(hours(16 * 24));
  REQUIRE(memory.apply(inUse));
  REQUIRE(memory.apply(other));
  {
    pqxx::connection connection(memory.world.database.url());
    pqxx::work reader{connection};
    reader.exec_params("select * from pillion.inbox where event_id = $1", inUse);
    reader.exec_params("lock table pillion.inbox in access share mode");
    memory.inbox.forgetOld();
    CHECK(memory.stored(inUse));
  }
  memory.inbox.forgetOld();
  CHECK_FALSE(memory.stored(inUse));
  CHECK_FALSE(memory.stored(other));
}

TEST_CASE("ids of version 4 are remembered, and deleted by the time they were applied") {
  Memory memory;
  const std::string young = "9b2d0c1e-6a53-4c51-8f4e-2f1f6f0f4a11";
  const std::string old = "1b2d0c1e-6a53-4c51-8f4e-2f1f6f0f4a12";
  REQUIRE(memory.apply(young));
  REQUIRE(memory.apply(old));
  CHECK_FALSE(memory.apply(young));
  memory.world.database.execute(
      "update pillion.inbox set applied_at = now() - interval '15 days'"
      " where event_id = '" +
      old + "'");
  memory.world.database.execute(
      "insert into pillion.inbox (consumer, event_id, source, applied_at) select 'memory', "
      "gen_random_uuid(), 'source', now() - interval '15 days' from generate_series(1, 2500)");
  while (memory.inbox.forgetOld()) {
  }
  CHECK(memory.stored(young));
  CHECK_FALSE(memory.stored(old));
  CHECK(memory.world.inbox() == 1);
  CHECK(memory.inbox.remembers(young));
}

TEST_CASE("a consumer deletes its own ids, and others' only when they are older than any window") {
  Memory memory;
  memory.world.database.execute(
      "insert into pillion.inbox (consumer, event_id, source, applied_at) select c,"
      " gen_random_uuid(), 's', now() - d * interval '1 day' from unnest(array['memory', 'longer',"
      " 'gone']) c, unnest(array[13, 15, 21]) d");
  while (memory.inbox.forgetOld()) {
  }
  CHECK(memory.world.database.query("select string_agg(consumer, ' ' order by consumer) from"
                                    " pillion.inbox_other") == "gone gone longer longer memory");
}

TEST_CASE("one id from two sources is two events, and from one source it is one") {
  Memory memory;
  const std::string id = idOfAge(hours(1));
  CHECK(memory.apply(id, "order-service"));
  CHECK(memory.apply(id, "forger"));
  CHECK_FALSE(memory.apply(id, "order-service"));
  CHECK_FALSE(memory.apply(id, "forger"));
}

namespace {

/// What claims of the same ids were answered, while somebody forgot.
struct Answers {
  std::atomic<long> duplicate{0};
  std::atomic<long> forgotten{0};
  std::atomic<long> wrong{0};
};

/// Asks again and again until told to stop; ids inside of the window must stay duplicates.
void askUntil(const std::stop_token& stop, inbox::PostgresInbox& inbox,
              const std::vector<std::string>& inside, const std::vector<std::string>& outside,
              Answers& answers) {
  while (!stop.stop_requested()) {
    for (std::size_t i = 0; i < inside.size(); ++i) {
      if (claimOf(*inbox.begin(), inside[i], "source") != inbox::Claim::Duplicate) ++answers.wrong;
      const inbox::Claim claim = claimOf(*inbox.begin(), outside[i], "source");
      if (claim == inbox::Claim::New) ++answers.wrong;
      if (claim == inbox::Claim::Duplicate) ++answers.duplicate;
      if (claim == inbox::Claim::Forgotten) ++answers.forgotten;
    }
  }
}

}  // namespace

TEST_CASE(
    "ids that are claimed while their child is emptied are duplicates or forgotten, not new") {
  Memory memory;  // forgets after 14 days
  long wrong = 0;
  int rounds = 0;
  for (const auto end = std::chrono::steady_clock::now() + 4s;
       std::chrono::steady_clock::now() < end; ++rounds) {
    memory.world.database.execute("update pillion.inbox_horizon set horizon = 'epoch'");
    inbox::PostgresInbox longer(memory.world.database.options(), "memory", hours(20 * 24));
    memory.world.database.execute("delete from pillion.inbox_window");
    std::vector<std::string> inside;
    std::vector<std::string> outside;
    for (int i = 0; i < 20; ++i) {
      inside.push_back(idOfAge(hours(i * 12)));
      outside.push_back(idOfAge(hours(17 * 24) + std::chrono::minutes(i)));
      REQUIRE(memory.apply(inside.back()));
      REQUIRE(memory.apply(outside.back()));
    }
    Answers answers;
    std::jthread asking(
        [&](const std::stop_token& stop) { askUntil(stop, longer, inside, outside, answers); });
    CHECK(eventually(20s, [&] { return answers.duplicate > 0; }));
    CHECK(eventually(20s, [&] {
      memory.inbox.forgetOld();  // a child that is in use stays
      return answers.forgotten > 0;
    }));
    asking.request_stop();
    asking.join();
    wrong += answers.wrong;
    CHECK_FALSE(memory.stored(outside.back()));
  }
  MESSAGE(rounds << " rounds");
  CHECK(rounds > 0);
  CHECK(wrong == 0);
}

TEST_CASE("a batch of ids is claimed in one statement, the second of two equal ones is none") {
  Memory memory;
  const std::string known = idOfAge(hours(2));
  REQUIRE(memory.apply(known));
  const amqp::Identity a{known, "source", "", "t"};
  const amqp::Identity b{idOfAge(hours(1)), R"(so"ur\ce, {x})", "", "t"};
  const amqp::Identity c{makeEventId(), "source", "", "t"};
  const std::vector<const amqp::Identity*> events{&a, &b, &c, &b};
  using inbox::Claim;
  CHECK(memory.inbox.begin()->claim(events, 1s) ==
        std::vector<Claim>{Claim::Duplicate, Claim::New, Claim::New, Claim::Duplicate});
}

}  // namespace pillion::test
