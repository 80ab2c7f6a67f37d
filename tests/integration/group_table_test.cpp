// How instances agree on who has which partition, without a broker: by share_partitions alone.
#include <map>
#include <random>
#include <set>

#include "consumer_fixture.hpp"
#include "event/event_id.hpp"
#include "inbox/group_table.hpp"

namespace pillion::test {
namespace {

using inbox::Assignment;
using inbox::Consumption;
using inbox::Partitions;

/// An instance as its thread would go on, one turn at a time. What it is told to let go of it does,
/// unless it is `stubborn`.
struct Instance {
  inbox::Member member{.consumer = "a.events", .instance = makeEventId(), .name = "host:1"};
  Assignment had = {};
  Consumption consumption{.connected = true};
  bool stubborn = false;

  inbox::Share turn(const TestDatabase& database, int partitions,
                    std::chrono::milliseconds lease = 1h) {
    auto connection = database.connect();
    pqxx::nontransaction tx(connection);
    const auto share =
        inbox::sharePartitions(tx, "pillion", member, partitions, lease, had, consumption);
    had = share.assignment;
    if (!stubborn || consumption.generation != had.generation) consumption.consumed = had.wanted;
    for (const int one : had.wanted) consumption.consumed.insert(one);
    consumption.generation = had.generation;
    return share;
  }
  void leave(const TestDatabase& database) {
    auto connection = database.connect();
    pqxx::nontransaction tx(connection);
    inbox::leaveGroup(tx, "pillion", member);
    had = {};
    consumption = {.connected = true};
  }
};

/// Every row's partitions, joined; and whether none is in two.
bool isDisjoint(const TestDatabase& database) {
  return database.count(
             "select count(*) from (select unnest(partitions) p from pillion.inbox_instance) t"
             " group by p having count(*) > 1 union all select 0 limit 1") == 0;
}

void lapse(const TestDatabase& database, const Instance& instance) {
  database.execute("update pillion.inbox_instance set alive_until = now() - interval '1 s'" +
                   (" where instance = '" + instance.member.instance + "'"));
}

}  // namespace

TEST_CASE("partitions are divided evenly, however many instances come and go, and none is in two") {
  const TestDatabase database;
  std::mt19937 random(7);  // NOLINT: the same cases each time
  for (const int partitions : {1, 5, 12, 64}) {
    CAPTURE(partitions);
    database.execute("truncate pillion.inbox_group, pillion.inbox_instance");
    std::vector<Instance> instances(6);
    std::set<std::size_t> running;
    for (int round = 0; round < 12; ++round) {
      const std::size_t one = random() % instances.size();
      if (running.contains(one) && running.size() > 1) {
        if (random() % 2 == 0) {
          instances[one].leave(database);
        } else {  // killed
          lapse(database, instances[one]);
          instances[one] = Instance();
        }
        running.erase(one);
      } else {
        running.insert(one);
      }
      inbox::Share share;
      for (int turn = 0; turn < 4; ++turn) {
        for (const std::size_t each : running) {
          share = instances[each].turn(database, partitions);
          REQUIRE(isDisjoint(database));
        }
      }
      CHECK(share.isSettled);
      Partitions all;
      for (const std::size_t each : running) {
        const auto& mine = instances[each].had.wanted;
        const int least = partitions / static_cast<int>(running.size());
        CHECK(static_cast<int>(mine.size()) >= least);
        CHECK(static_cast<int>(mine.size()) <= least + 1);
        all.insert(mine.begin(), mine.end());
      }
      CHECK(static_cast<int>(all.size()) == partitions);
    }
  }
}

TEST_CASE("a partition is given to nobody until who has it has let it go, or its lease is over") {
  const TestDatabase database;
  Instance first;
  first.turn(database, 4);
  CHECK(first.had.wanted == Partitions{0, 1, 2, 3});
  Instance second;
  second.turn(database, 4);
  CHECK(second.had.wanted.empty());
  first.stubborn = true;  // a handler of one of them takes its time
  for (int turn = 0; turn < 3; ++turn) {
    CHECK(first.turn(database, 4).assignment.wanted == Partitions{0, 1});
    CHECK(second.turn(database, 4).assignment.wanted.empty());
  }
  first.stubborn = false;
  first.consumption.consumed = {0, 1};
  first.turn(database, 4);
  CHECK(second.turn(database, 4).assignment.wanted == Partitions{2, 3});
  lapse(database, first);
  CHECK(second.turn(database, 4).assignment.wanted == Partitions{0, 1, 2, 3});
  // It was paused, and still thinks that it has them.
  CHECK(first.turn(database, 4).assignment.wanted.empty());
  CHECK(first.turn(database, 4).assignment.wanted.empty());
  second.turn(database, 4);  // is told to let two go
  second.turn(database, 4);  // and has
  CHECK(first.turn(database, 4).assignment.wanted == Partitions{2, 3});
  CHECK(isDisjoint(database));
}

TEST_CASE("an instance without the broker has no share, and gets one when it is back") {
  const TestDatabase database;
  Instance one;
  Instance other;
  for (int turn = 0; turn < 3; ++turn) {
    one.turn(database, 2);
    other.turn(database, 2);
  }
  CHECK(one.had.wanted.size() == 1);
  one.consumption = {.connected = false, .generation = 1};
  one.turn(database, 2);
  one.turn(database, 2);
  CHECK(other.turn(database, 2).assignment.wanted.size() == 2);
  one.consumption.connected = true;
  for (int turn = 0; turn < 3; ++turn) {
    one.turn(database, 2);
    other.turn(database, 2);
  }
  CHECK(one.had.wanted.size() == 1);
}

TEST_CASE("the database says how many partitions there are, whatever a later instance wishes") {
  const TestDatabase database;
  Instance first;
  first.turn(database, 4);
  Instance second;
  CHECK(second.turn(database, 16).assignment.partitions == 4);
}

TEST_CASE(
    "the present queues may be unbound when every instance has heard of the next, or is gone") {
  const TestDatabase database;
  Instance one;
  Instance other;
  one.consumption.known = other.consumption.known = 1;
  one.turn(database, 2);
  other.turn(database, 2);
  CHECK_FALSE(one.turn(database, 2).assignment.allKnow);
  changePartitions(database.options(), "a.events", 3);
  CHECK_FALSE(one.turn(database, 2).assignment.allKnow);
  one.consumption.known = 2;
  CHECK_FALSE(one.turn(database, 2).assignment.allKnow);
  SUBCASE("one that has no connection to the broker may have one in a moment") {
    other.consumption.connected = false;
    other.turn(database, 2);
    CHECK_FALSE(one.turn(database, 2).assignment.allKnow);
    other.consumption.known = 2;
    CHECK(other.turn(database, 2).assignment.allKnow);
  }
  SUBCASE("one that was not heard of is told first should it come back") {
    lapse(database, other);
    CHECK(one.turn(database, 2).assignment.allKnow);
    CHECK(other.turn(database, 2).assignment.next == 3);
    CHECK_FALSE(one.turn(database, 2).assignment.allKnow);
  }
  SUBCASE("one that comes later") {
    other.leave(database);
    CHECK(one.turn(database, 2).assignment.allKnow);
    Instance late;
    CHECK(late.turn(database, 2).assignment.next == 3);
  }
}

TEST_CASE("the number of partitions changes when all present ones are worked off, and not before") {
  const TestDatabase database;
  Instance one;
  one.turn(database, 2);
  changePartitions(database.options(), "a.events", 5);
  changePartitions(database.options(), "a.events", 5);  // twice is once
  CHECK_THROWS_AS(changePartitions(database.options(), "a.events", 6), ConfigError);
  CHECK_THROWS_AS(changePartitions(database.options(), "b.events", 6), ConfigError);
  CHECK_THROWS_AS(changePartitions(database.options(), "a.events", 65), ConfigError);
  one.consumption.empty = {0, 1};  // what is known before the next queues are bound says nothing
  CHECK(one.turn(database, 2).assignment.next == 5);
  one.consumption.bound = 2;
  CHECK_FALSE(one.turn(database, 2).assignment.draining);
  CHECK(one.turn(database, 2).assignment.generation == 1);
  database.execute("update pillion.inbox_group set bound_at = now() - interval '6 s'");
  one.consumption.empty = {1};
  CHECK(one.turn(database, 2).assignment.draining);
  CHECK(one.turn(database, 2).assignment.generation == 1);
  Instance other;
  other.turn(database, 2);
  other.consumption.empty = {0};  // it does not have that one
  CHECK(other.turn(database, 2).assignment.generation == 1);
  one.consumption.empty = {0, 1};
  const auto done = one.turn(database, 2).assignment;
  CHECK(done.generation == 2);
  CHECK(done.partitions == 5);
  CHECK(done.next == 0);
  for (int turn = 0; turn < 3; ++turn) {
    one.turn(database, 2);
    other.turn(database, 2);
  }
  CHECK(one.had.wanted.size() + other.had.wanted.size() == 5);
  CHECK(isDisjoint(database));
}

}  // namespace pillion::test
