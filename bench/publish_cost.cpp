#include "publish_cost.hpp"

#include <algorithm>
#include <atomic>
#include <functional>
#include <random>
#include <thread>
#include <vector>

#include "base/wake_event.hpp"
#include "outbox/wake_listener.hpp"

namespace pillion::bench {
namespace {

constexpr int kClients = 8;
constexpr int kPairs = 9;

/// Transactions that eight clients commit in the time, each with its own connection.
double rate(const BenchServers& servers, const std::string& database, Seconds time,
            const std::function<void(pqxx::work&, const Event&)>& write) {
  std::atomic<long> committed{0};
  std::atomic<bool> stop{false};
  std::vector<std::thread> clients;
  for (int c = 0; c < kClients; ++c) {
    clients.emplace_back([&, c] {
      std::mt19937 random(static_cast<unsigned>(c));
      pqxx::connection connection(servers.postgres.url(database));
      connection.prepare("update_account",
                         "update account set balance = balance + 1 where id = $1");
      connection.prepare("by_hand",
                         "insert into by_hand (event_id, type, source, key, payload)"
                         " values ($1, $2, $3, $4, $5)");
      while (!stop) {
        const int id = static_cast<int>(random() % 10'000);
        Event event = Event::ofBytes("bench.created", payload(), "application/json");
        event.setKey("key-" + std::to_string(id));
        pqxx::work tx{connection};
        tx.exec_prepared("update_account", id);
        write(tx, event);
        tx.commit();
        ++committed;
      }
    });
  }
  std::this_thread::sleep_for(time);
  stop = true;
  for (auto& client : clients) client.join();
  return static_cast<double>(committed) / time.count();
}

/// Each goes first as often as second.
PairedRates inPairs(std::chrono::seconds time, const std::function<double(Seconds)>& one,
                    const std::function<double(Seconds)>& other) {
  const Seconds slice = Seconds(time) / (2 * kPairs);
  PairedRates rates;
  std::vector<double> ratios;
  for (int pair = 0; pair < kPairs; ++pair) {
    const bool swapped = pair % 2 == 1;
    const double before = swapped ? other(slice) : one(slice);
    const double after = swapped ? one(slice) : other(slice);
    rates.one += (swapped ? after : before) / kPairs;
    rates.other += (swapped ? before : after) / kPairs;
    ratios.push_back(swapped ? after / before : before / after);
  }
  std::ranges::nth_element(ratios, ratios.begin() + kPairs / 2);
  rates.ratio = ratios[kPairs / 2];
  return rates;
}

std::string databaseWithAccounts(BenchServers& servers) {
  const std::string database = servers.createDatabase();
  servers.postgres.execute(
      database,
      "create table account (id int primary key, balance bigint not null) with (fillfactor = 50);"
      "insert into account select g, 0 from generate_series(0, 9999) g;"
      "create table by_hand (id bigserial, event_id uuid, type text, source text, key text,"
      " created_at timestamptz default now(), payload text)");
  return database;
}

}  // namespace

PairedRates publishCost(BenchServers& servers, std::chrono::seconds time) {
  const std::string database = databaseWithAccounts(servers);
  const auto publisher = EventPublisher::create("bench", {.database = servers.database(database)});
  const auto published = [&](Seconds slice) {
    return rate(servers, database, slice,
                [&](pqxx::work& tx, const Event& event) { publisher->publish(tx, event); });
  };
  const auto inserted = [&](Seconds slice) {
    return rate(servers, database, slice, [](pqxx::work& tx, const Event& event) {
      tx.exec_prepared("by_hand", event.id(), event.type(), "bench", event.key(), event.bytes());
    });
  };
  return inPairs(time, published, inserted);
}

PairedRates notifyCost(BenchServers& servers, std::chrono::seconds time, Idle idle) {
  const std::string database = databaseWithAccounts(servers);
  const auto publisher = EventPublisher::create("bench", {.database = servers.database(database)});
  const auto published = [&](Seconds slice) {
    return rate(servers, database, slice,
                [&](pqxx::work& tx, const Event& event) { publisher->publish(tx, event); });
  };
  servers.postgres.execute(database, "select pillion.enable_notify(true)");
  if (idle == Idle::Asleep) {
    servers.postgres.execute(database, "select pillion.raise_idle_flag()");
  }
  // As a relay that sleeps has it: who is notified costs, too.
  base::WakeEvent wake;
  const outbox::WakeListener listener(
      servers.database(database),
      {"bench", std::chrono::milliseconds(100), std::chrono::milliseconds(1000)}, wake);
  const auto withTrigger = [&](Seconds slice) {
    servers.postgres.execute(database, "select pillion.enable_notify(true)");
    return published(slice);
  };
  const auto without = [&](Seconds slice) {
    servers.postgres.execute(database,
                             "set client_min_messages = warning; select pillion.disable_notify()");
    return published(slice);
  };
  return inPairs(time, withTrigger, without);
}

}  // namespace pillion::bench
