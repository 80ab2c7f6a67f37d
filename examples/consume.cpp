// Consuming: each event is handled in a transaction that also remembers the event's id, so that a
// total kept in a table is right however often the broker delivers.
//
//   pillion migrate && pillion relay &   publish 3;   consume 3 10
//
// ends after 3 events, or with status 1 after 10 seconds. Start it once before you publish: its
// queue gets what is published from then on, whether it runs or not.
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <memory>
#include <mutex>
#include <pillion/pillion.hpp>
#include <pqxx/pqxx>
#include <string>

namespace {

// Lets main wait until so many events were handled.
class Countdown {
 public:
  explicit Countdown(int count) : left_(count) {}

  void one() {
    const std::lock_guard lock(mutex_);
    --left_;
    changed_.notify_all();
  }

  bool wait(std::chrono::seconds limit) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, limit, [this] { return left_ <= 0; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int left_;
};

void createTable(pqxx::connection& connection) {
  pqxx::work tx{connection};
  tx.exec("CREATE TABLE IF NOT EXISTS ledger (day date PRIMARY KEY, cents bigint NOT NULL)");
  tx.commit();
}

void handlePayment(const pillion::Event& event, pillion::Transaction& tx) {
  const auto cents = event.data().at("cents").get<int>();
  tx.exec_params(
      "INSERT INTO ledger (day, cents) VALUES (current_date, $1) "
      "ON CONFLICT (day) DO UPDATE SET cents = ledger.cents + excluded.cents",
      cents);
  std::cout << "payment " << event.key() << ": " << cents << " cents" << std::endl;
}

int run(int events, std::chrono::seconds limit) {
  const char* url = std::getenv("PILLION_DATABASE_URL");
  pqxx::connection connection(url != nullptr ? url : "");
  createTable(connection);

  Countdown countdown(events);
  const auto consumer = pillion::EventConsumer::create("ledger-service", {"payment.*"});
  consumer->onEvent("payment.made", [&](const pillion::Event& event, pillion::Transaction& tx) {
    handlePayment(event, tx);
    countdown.one();
  });
  consumer->start();
  const bool complete = countdown.wait(limit);
  consumer->stop();  // the event in hand is committed and acknowledged

  pqxx::work tx{connection};
  const auto total = tx.exec("SELECT coalesce(sum(cents), 0) FROM ledger")[0][0].as<std::string>();
  std::cout << "the ledger says " << total << " cents\n";
  return complete ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc > 1 ? std::atoi(argv[1]) : 3,
               std::chrono::seconds(argc > 2 ? std::atoi(argv[2]) : 10));
  } catch (const pillion::Error& error) {
    std::cerr << "consume: " << error.what() << '\n';
    return error.retryable() ? 1 : 2;
  } catch (const std::exception& error) {
    std::cerr << "consume: " << error.what() << '\n';
    return 1;
  }
}
