#include "publish_cost.hpp"

#include <algorithm>
#include <atomic>
#include <functional>
#include <random>
#include <thread>
#include <vector>

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

}  // namespace

PublishRates publishCost(BenchServers& servers, std::chrono::seconds time) {
  const std::string database = servers.createDatabase();
  servers.postgres.execute(
      database,
      "create table account (id int primary key, balance bigint not null) with (fillfactor = 50);"
      "insert into account select g, 0 from generate_series(0, 9999) g;"
      "create table by_hand (id bigserial, event_id uuid, type text, source text, key text,"
      " created_at timestamptz default now(), payload text)");
  const auto publisher = EventPublisher::create("bench", {.database = servers.database(database)});
  const Seconds slice = Seconds(time) / (2 * kPairs);
  PublishRates rates;
  std::vector<double> ratios;
  for (int pair = 0; pair < kPairs; ++pair) {
    const auto published = [&] {
      return rate(servers, database, slice,
                  [&](pqxx::work& tx, const Event& event) { publisher->publish(tx, event); });
    };
    const auto inserted = [&] {
      return rate(servers, database, slice, [&](pqxx::work& tx, const Event& event) {
        tx.exec_prepared("by_hand", event.id(), event.type(), "bench", event.key(), event.bytes());
      });
    };
    // Each goes first as often as second.
    const bool swapped = pair % 2 == 1;
    const double before = swapped ? inserted() : published();
    const double after = swapped ? published() : inserted();
    rates.withPublish += (swapped ? after : before) / kPairs;
    rates.byHand += (swapped ? before : after) / kPairs;
    ratios.push_back(swapped ? after / before : before / after);
  }
  std::ranges::nth_element(ratios, ratios.begin() + kPairs / 2);
  rates.ratio = ratios[kPairs / 2];
  return rates;
}

}  // namespace pillion::bench
