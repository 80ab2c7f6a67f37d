// What is left when the process dies at each gap of a delivery.
#include <optional>
#include <thread>

#include "consumer_fixture.hpp"

namespace pillion::test {
namespace {

/// Ten events wait; a consumer dies at `site`, a second one goes on. Returns the second one's
/// counters.
std::map<std::string, long> dieAndGoOn(const World& world, const std::string& site,
                                       const std::string& batch,
                                       std::optional<long> rowsAfterDeath) {
  CAPTURE(site);
  declareOnly(world, "service");
  const auto events = numberedEvents(10);
  send(world.exchange, events);

  ConsumerProcess victim(world, "service", site, {batch});
  REQUIRE(victim.process().waitFor(20s) == kKilled);
  if (rowsAfterDeath) CHECK(world.journal() == *rowsAfterDeath);
  CHECK(world.inbox() == world.journal());

  ConsumerProcess heir(world, "service", "", {batch});
  CHECK(eventually(20s, [&] { return Servers::mq().queueDepth("service.events") == 0; }));
  auto counters = heir.stop();
  CHECK(world.journal() == 10);
  CHECK(world.journalIds() == 10);
  CHECK(world.database.query("select string_agg(number::text, ' ' order by position) "
                             "from journal") == "1 2 3 4 5 6 7 8 9 10");
  Servers::mq().deleteQueue("service.events");
  return counters;
}

}  // namespace

TEST_CASE("a consumer killed anywhere in a batch applies each event once after a restart") {
  for (const std::string site : {"delivery.received", "delivery.begun", "delivery.claimed",
                                 "delivery.handled", "delivery.committed", "delivery.acked"}) {
    const World world;
    const bool committed = site == "delivery.committed" || site == "delivery.acked";
    auto counters = dieAndGoOn(world, site + "=kill@1", "batch=100",
                               committed ? std::nullopt : std::optional<long>(0));
    CHECK(counters["delivered"] == counters["applied"] + counters["duplicates"]);
  }
}

TEST_CASE("a consumer killed before commit applies the event once after a restart") {
  for (const std::string site :
       {"delivery.received", "delivery.begun", "delivery.claimed", "delivery.handled"}) {
    const World world;
    auto counters = dieAndGoOn(world, site + "=kill@3", "batch=1", 2);
    // The third was given back unapplied. The first two may come again: their acks were under way.
    CHECK(counters["applied"] == 8);
    CHECK(counters["duplicates"] <= 2);
  }
}

TEST_CASE("a consumer killed between commit and ack applies the event once after a restart") {
  const World world;
  auto counters = dieAndGoOn(world, "delivery.committed=kill@3", "batch=1", 3);
  CHECK(counters["applied"] == 7);
  // The third was committed and certainly not acked: the inbox is what stops it.
  CHECK(counters["duplicates"] >= 1);
  CHECK(counters["delivered"] == counters["applied"] + counters["duplicates"]);
}

TEST_CASE("a consumer killed while its ack is on the way applies the event once after a restart") {
  const World world;
  auto counters = dieAndGoOn(world, "delivery.acked=kill@3", "batch=1", 3);
  CHECK(counters["applied"] == 7);
  CHECK(counters["delivered"] == counters["applied"] + counters["duplicates"]);
}

TEST_CASE("an event that kills its consumer every time ends in the dead-letter queue") {
  const World world;
  declareOnly(world, "poisoned");
  Servers::mq().deleteQueue("poisoned.events");  // its delivery limit is to be another
  const std::vector<std::string> limitOfTwo{"deliveryLimit=2"};
  {
    ConsumerProcess first(world, "poisoned", "", limitOfTwo);
    first.awaitReady();
    first.stop();
  }
  send(world.exchange, numberedEvents(1)[0]);
  int deaths = 0;
  const auto given = [&] { return Servers::mq().queueDepth("poisoned.events") == 0; };
  while (deaths < 6 && !given()) {
    ConsumerProcess victim(world, "poisoned", "delivery.claimed=kill@1", limitOfTwo);
    REQUIRE(eventually(20s, [&] { return !victim.process().running() || given(); }));
    if (!victim.process().running()) ++deaths;
  }
  CHECK(deaths == 3);  // the first delivery and two more
  REQUIRE(readDeadLetters("poisoned.events", 1).size() == 1);

  ConsumerProcess next(world, "poisoned", "", limitOfTwo);
  send(world.exchange, numberedEvents(1)[0]);
  CHECK(eventually(20s, [&] { return world.journal() == 1; }));
  next.stop();
}

namespace {

constexpr int kKeys = 20;
constexpr int kWriters = 4;
constexpr int kPerWriter = 100;

/// Each transaction moves one key on by one, and says so in an event.
void writeKeys(const World& world, int writer) {
  const auto publisher = EventPublisher::create("writer");
  pqxx::connection connection(world.database.url());
  for (int i = 0; i < kPerWriter; ++i) {
    const std::string key = "key-" + std::to_string((i * 7 + writer * 3) % kKeys);
    pqxx::work tx{connection};
    const auto row =
        tx.exec_params1("update counter set n = n + 1 where key = $1 returning n", key);
    publisher->publish(tx, Event("key.moved", {{"number", row[0].as<int>()}}).setKey(key));
    tx.commit();
  }
}

}  // namespace

TEST_CASE("events of twenty keys by four writers arrive in order per key while consumers die") {
  const World world;
  world.database.execute("create table counter (key text primary key, n int not null)");
  world.database.execute("insert into counter select 'key-' || g, 0 from generate_series(0, " +
                         std::to_string(kKeys - 1) + ") g");
  declareOnly(world, "ordered");
  const auto relay = Relay::create(relayOptions(world.database, world.exchange));
  relay->start();
  std::vector<std::jthread> writers;
  for (int w = 0; w < kWriters; ++w) writers.emplace_back([&world, w] { writeKeys(world, w); });

  for (const std::string site : {"delivery.begun@5", "delivery.claimed@5", "delivery.handled@5",
                                 "delivery.committed@5", "delivery.acked@5"}) {
    const auto at = site.find('@');
    ConsumerProcess victim(world, "ordered", site.substr(0, at) + "=kill" + site.substr(at),
                           {"batch=4"});
    REQUIRE(victim.process().waitFor(30s) == kKilled);
  }
  ConsumerProcess last(world, "ordered");
  CHECK(eventually(30s, [&] { return world.journal() == kWriters * kPerWriter; }));
  writers.clear();
  last.stop();
  relay->stop();
  CHECK(world.journalIds() == kWriters * kPerWriter);
  CHECK(world.database.count("select count(*) from (select number, row_number() over (partition by "
                             "key order by position) as expected from journal) j "
                             "where number <> expected") == 0);
}

}  // namespace pillion::test
