// A relay as a thread of the service: one process less to run. Told of each commit, it need not
// wait for its next look at the outbox. Any number of instances may do this, and `pillion relay`
// may run beside them: one relay works and the others stand by.
//
//   embedded_relay 5      publishes 5 events and prints how long after the commit each arrived
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

using Clock = std::chrono::steady_clock;

// What the consumer's thread tells the publishing one.
class Arrivals {
 public:
  void note(const std::string& id) {
    const std::lock_guard lock(mutex_);
    last_ = id;
    changed_.notify_all();
  }

  bool wait(const std::string& id, std::chrono::seconds limit) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, limit, [&] { return last_ == id; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::string last_;
};

int run(int count) {
  const char* url = std::getenv("PILLION_DATABASE_URL");
  pqxx::connection connection(url != nullptr ? url : "");
  pillion::Migrator{}.migrate();

  Arrivals arrivals;
  const auto consumer = pillion::EventConsumer::create("clock-watcher", {"clock.ticked"});
  consumer->onEvent("clock.ticked", [&](const pillion::Event& e) { arrivals.note(e.id()); });
  consumer->start();

  const auto relay = pillion::Relay::create();
  relay->start();

  const auto publisher = pillion::EventPublisher::create("clock-service");
  for (int i = 1; i <= count; ++i) {
    const pillion::Event event("clock.ticked", {{"tick", i}});
    pqxx::work tx{connection};
    publisher->publish(tx, event);
    tx.commit();
    const auto committed = Clock::now();
    relay->wake();  // only now: before the commit there is nothing to see
    if (!arrivals.wait(event.id(), std::chrono::seconds(20))) return 1;
    const std::chrono::duration<double, std::milli> took = Clock::now() - committed;
    std::cout << "tick " << i << " arrived " << took.count() << " ms after the commit\n";
  }
  relay->stop();  // what is in flight is confirmed first
  consumer->stop();
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc > 1 ? std::atoi(argv[1]) : 5);
  } catch (const pillion::Error& error) {
    std::cerr << "embedded_relay: " << error.what() << '\n';
    return error.retryable() ? 1 : 2;
  } catch (const std::exception& error) {
    std::cerr << "embedded_relay: " << error.what() << '\n';
    return 1;
  }
}
