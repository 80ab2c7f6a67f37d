#define PILLION_TEST_MAIN
#include <algorithm>
#include <csignal>
#include <functional>
#include <map>
#include <random>

#include "support/pgbouncer.hpp"
#include "support/tcp_gate.hpp"
#include "versioned_flow.hpp"

// Several relays of one outbox: who has which lanes, and what happens to the events meanwhile.

using namespace pillion;
using namespace pillion::test;

namespace {

struct Setup : WatchedFlow {
  [[nodiscard]] support::Process relay(const std::string& name, const std::string& failpoints = "",
                                       const std::string& leaseMs = "3000") const {
    return startRelayProcess(
        database, exchange, failpoints,
        {"--name", name, "--lease-ms", leaseMs, "--renew-ms", "500", "--heartbeat-s", "2"});
  }
};

}  // namespace

TEST_CASE("relays that come, end and are killed share the lanes fairly, without anybody's help") {
  Setup setup;
  auto first = setup.relay("first");
  CHECK(setup.becomes({{"first", 64}}));
  auto second = setup.relay("second");
  CHECK(setup.becomes({{"first", 32}, {"second", 32}}));
  auto third = setup.relay("third");
  CHECK(eventually(15s, [&] {
    const auto shares = setup.shares();
    return shares.size() == 3 && !shares.contains("") &&
           std::ranges::all_of(shares, [](const auto& share) { return share.second >= 20; });
  }));
  setup.write(2'000);
  CHECK(setup.allArrived());
  CHECK(second.terminate(10s) == 0);
  CHECK(setup.becomes({{"first", 32}, {"third", 32}}));
  first.signal(SIGKILL);
  CHECK(setup.becomes({{"third", 64}}));
  setup.write(2'000);
  CHECK(setup.allArrived());
  CHECK(setup.arrivals.outOfOrder() == 0);
}

TEST_CASE("lanes change hands under load at confirmed boundaries: in order, and nothing twice") {
  // No lease runs out here, however slow the machine is: that would be another way to change hands.
  const std::string lease = "30000";
  Setup setup;
  setup.beginWriting(20);
  auto first = setup.relay("first", "", lease);
  CHECK(setup.becomes({{"first", 64}}));
  for (int round = 0; round < 4; ++round) {
    auto second = setup.relay("second", "", lease);
    CHECK(setup.becomes({{"first", 32}, {"second", 32}}));
    setup.arrivals.readFor(300ms);
    CHECK(second.terminate(10s) == 0);
    CHECK(setup.becomes({{"first", 64}}));
  }
  setup.endWriting();
  CHECK(setup.allArrived());
  setup.arrivals.readFor(300ms);
  CHECK(setup.arrivals.outOfOrder() == 0);
  CHECK(setup.arrivals.repeated() == 0);
}

TEST_CASE("lanes taken over in the middle of a backlog catch up with the others and lose nothing") {
  Setup setup;
  setup.write(20'000);
  // It ends after a few pages, with some checkpointed: its lanes are inside the backlog then.
  auto doomed = setup.relay("doomed", "relay.checkpointed=kill@3");
  CHECK(doomed.waitFor(20s) == 128 + SIGKILL);
  setup.write(5'000);
  auto second = setup.relay("second");
  auto third = setup.relay("third");
  setup.write(5'000);
  CHECK(setup.allArrived());
  CHECK(setup.arrivals.outOfOrder() == 0);
  CHECK(setup.becomes({{"second", 32}, {"third", 32}}));
  // All lanes of a relay are at one position again: one fetch serves them.
  CHECK(eventually(10s, [&] {
    setup.write(200);
    setup.arrivals.readFor(700ms);
    return setup.database.count(
               "select max(n) from (select count(distinct done::text) n from"
               " pillion.lane_position group by token) per_relay") == 1;
  }));
}

TEST_CASE(
    "of three relays one is paused past its lease: the others go on, its checkpoint is void") {
  Setup setup;
  auto first = setup.relay("first");
  auto second = setup.relay("second");
  REQUIRE(setup.becomes({{"first", 32}, {"second", 32}}));
  // The zombie stops itself with a window sent and unconfirmed.
  auto zombie = setup.relay("zombie", "relay.published=stop@3");
  setup.beginWriting(20);
  const auto zombies = [&] {
    const auto shares = setup.shares();
    const auto found = shares.find("zombie");
    return found == shares.end() ? 0 : found->second;
  };
  CHECK(eventually(15s, [&] {
    setup.arrivals.readFor(20ms);
    return zombies() > 0;
  }));
  // Its lease runs out while it is paused, and the two others take its lanes.
  CHECK(eventually(30s, [&] {
    setup.arrivals.readFor(20ms);
    return setup.shares() == std::map<std::string, int>{{"first", 32}, {"second", 32}};
  }));
  const auto fetchToken = [&] {
    return setup.database.query("select string_agg(distinct token::text, ',') from pillion.lane");
  };
  const std::string before = fetchToken();
  zombie.signal(SIGCONT);
  // It enters again as a new incarnation, with a new token, and gets its share.
  CHECK(eventually(15s, [&] {
    setup.arrivals.readFor(20ms);
    return zombies() > 0 && fetchToken() != before;
  }));
  setup.endWriting();
  CHECK(setup.allArrived());
  CHECK(setup.arrivals.outOfOrder() == 0);
  CHECK(zombie.terminate(15s) == 0);
}

TEST_CASE("a relay that cannot reach the broker leaves its lanes to one that can") {
  Setup setup;
  support::TcpGate gate(Servers::mq().port());
  auto options = relayOptions(setup.database, setup.exchange);
  options.name = "cut off";
  options.lease = 3s;
  options.renewEvery = 500ms;
  options.broker.url = "amqp://guest:guest@127.0.0.1:" + std::to_string(gate.port());
  const auto cutOff = Relay::create(options);
  cutOff->start();
  REQUIRE(setup.becomes({{"cut off", 64}}));
  auto other = setup.relay("other");
  REQUIRE(setup.becomes({{"cut off", 32}, {"other", 32}}));
  gate.refuse();
  gate.cut();
  CHECK(setup.becomes({{"other", 64}}, 30s));
  setup.write(1'000);
  CHECK(setup.allArrived());
  gate.pass();
  CHECK(setup.becomes({{"cut off", 32}, {"other", 32}}, 30s));
  CHECK(setup.arrivals.outOfOrder() == 0);
}

namespace {

/// Two relays with half of the lanes each, of which one is a broker's user of its own. What `harm`
/// does to that user leaves all lanes to the other, until it has its rights again.
void checkLeavesItsLanes(const std::function<void(const std::string&)>& harm) {
  Setup setup;
  const std::string user = uniqueName("harmed");
  const auto grant = [&] { Servers::mq().addUser(user, "secret", ".*", ".*", ".*"); };
  grant();
  auto options = relayOptions(setup.database, setup.exchange);
  options.name = "harmed";
  options.lease = 3s;
  options.renewEvery = 500ms;
  options.broker.url = Servers::mq().url(user, "secret");
  const auto relay = Relay::create(options);
  relay->start();
  auto other = setup.relay("other");
  REQUIRE(setup.becomes({{"harmed", 32}, {"other", 32}}));
  harm(user);
  setup.write(1'000);  // or nobody would notice
  CHECK(setup.becomes({{"other", 64}}, 30s));
  CHECK(setup.allArrived());
  grant();
  CHECK(setup.becomes({{"harmed", 32}, {"other", 32}}, 30s));
  setup.write(1'000);
  CHECK(setup.allArrived());
  CHECK(setup.arrivals.outOfOrder() == 0);
}

}  // namespace

TEST_CASE("a relay that may no longer write leaves its lanes to one that may") {
  checkLeavesItsLanes(
      [](const std::string& user) { Servers::mq().addUser(user, "secret", ".*", "^$", ".*"); });
}

TEST_CASE("a relay that the broker lets in no more leaves its lanes to one that is in") {
  // Its connections end with it.
  checkLeavesItsLanes([](const std::string& user) { Servers::mq().ctl({"delete_user", user}); });
}

TEST_CASE("relays behind PgBouncer in transaction mode share lanes, keep order and lose nothing") {
  Setup setup;
  const support::PgBouncer bouncer(Servers::instance().directory / uniqueName("pgbouncer"),
                                   Servers::pg());
  const auto relay = [&](const std::string& name) {
    auto options = relayOptions(setup.database, setup.exchange);
    options.name = name;
    options.database.url = bouncer.url(setup.database.name());
    options.lease = 3s;
    options.renewEvery = 500ms;
    options.pageEvents = 100;
    return Relay::create(options);
  };
  setup.write(2'000);
  const auto first = relay("first");
  first->start();
  REQUIRE(setup.becomes({{"first", 64}}));
  const auto second = relay("second");
  second->start();
  REQUIRE(setup.becomes({{"first", 32}, {"second", 32}}));
  // Publishers share the pool's sessions with the relays, without prepared statements.
  PublisherOptions options{.database = {.url = bouncer.url(setup.database.name())}};
  options.preparedStatements = false;
  setup.publisher = EventPublisher::create("orders", options);
  pqxx::connection connection(bouncer.url(setup.database.name()));
  for (int i = 0; i < 100; ++i) setup.write(connection, 20);
  CHECK(setup.allArrived());
  CHECK(setup.shares() == std::map<std::string, int>{{"first", 32}, {"second", 32}});
  second->stop();
  CHECK(setup.becomes({{"first", 64}}));
  setup.write(connection, 200);
  CHECK(setup.allArrived());
  CHECK(setup.arrivals.outOfOrder() == 0);
  CHECK(setup.arrivals.repeated() == 0);
}

TEST_CASE("behind PgBouncer a killed relay's lanes are taken over by its lease alone, in order") {
  Setup setup;
  const support::PgBouncer bouncer(Servers::instance().directory / uniqueName("pgbouncer"),
                                   Servers::pg());
  const auto relay = [&](const std::string& name) {
    return startRelayProcess(setup.database, setup.exchange, "",
                             {"--name", name, "--lease-ms", "3000", "--renew-ms", "500",
                              "--database-url", bouncer.url(setup.database.name())});
  };
  setup.beginWriting(20);
  auto survivor = relay("survivor");
  REQUIRE(setup.becomes({{"survivor", 64}}));
  auto doomed = relay("doomed");
  REQUIRE(setup.becomes({{"doomed", 32}, {"survivor", 32}}));
  setup.arrivals.readFor(300ms);
  doomed.signal(SIGKILL);
  CHECK(doomed.waitFor(5s) == 128 + SIGKILL);
  // The pooler's sessions live on and say nothing: nobody can know yet.
  CHECK(setup.database.count("select max(backend_pid) from pillion.relay") == 0);
  CHECK(setup.shares() == std::map<std::string, int>{{"doomed", 32}, {"survivor", 32}});
  CHECK(setup.becomes({{"survivor", 64}}));
  setup.arrivals.readFor(300ms);

  // And now nobody is left to take them but one that comes later.
  survivor.signal(SIGKILL);
  CHECK(survivor.waitFor(5s) == 128 + SIGKILL);
  auto last = relay("last");
  CHECK(setup.becomes({{"last", 64}}));
  setup.endWriting();
  CHECK(setup.allArrived());
  CHECK(setup.arrivals.outOfOrder() == 0);
  CHECK(setup.arrivals.repeated() > 0);  // otherwise nothing was under way when they were killed
  CHECK(last.terminate(10s) == 0);
}

TEST_CASE("three relays under a kill loop for a minute keep each key's order and lose nothing") {
  Setup setup;
  setup.beginWriting(10);
  std::mt19937 random(2026);
  std::vector<support::Process> relays;
  for (int i = 0; i < 3; ++i) relays.push_back(setup.relay("relay-" + std::to_string(i)));
  const auto end = std::chrono::steady_clock::now() + 60s;
  int kills = 0;
  while (std::chrono::steady_clock::now() < end) {
    setup.arrivals.readFor(std::chrono::milliseconds(200 + random() % 1'500));
    const std::size_t victim = random() % relays.size();
    relays[victim].signal(SIGKILL);
    relays[victim].waitFor(5s);
    relays[victim] = setup.relay("relay-" + std::to_string(3 + kills++));
  }
  setup.endWriting();
  CHECK(setup.allArrived());
  CHECK(setup.arrivals.outOfOrder() == 0);
  CHECK(setup.database.query("select coalesce(string_agg(reason, ','), '') from pillion.parked") ==
        "");
  CHECK(kills > 20);
  CHECK(setup.arrivals.repeated() > 0);  // otherwise no kill has bitten
  for (auto& relay : relays) CHECK(relay.terminate(10s) == 0);
  MESSAGE(kills << " kills, " << setup.written() << " events, " << setup.arrivals.repeated()
                << " repeated");
}
