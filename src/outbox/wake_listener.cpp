#include "outbox/wake_listener.hpp"

#include <condition_variable>
#include <optional>
#include <pillion/error.hpp>
#include <pqxx/pqxx>

#include "base/log_line.hpp"
#include "base/thread_safety.hpp"
#include "outbox/outbox_table.hpp"
#include "postgres/connection.hpp"
#include "postgres/statement.hpp"

namespace pillion::outbox {
namespace {

// libpqxx 7.10 deprecates it, and 6.4 has nothing else.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
class Receiver : public pqxx::notification_receiver {
 public:
  Receiver(postgres::Session& connection, const std::string& channel, base::WakeEvent& wake)
      : notification_receiver(connection, channel), wake_(wake) {}
  void operator()(const std::string&, int) override { wake_.signal(); }

 private:
  base::WakeEvent& wake_;
};
#pragma GCC diagnostic pop

void waitBeforeRetry(const std::stop_token& stop) {
  base::Mutex mutex;
  std::condition_variable_any changed;
  base::MutexLock lock(mutex);
  changed.wait_for(lock, stop, std::chrono::seconds(1), [] { return false; });
}

}  // namespace

WakeListener::WakeListener(const DatabaseOptions& database, base::WakeEvent& wake) {
  const auto connection = postgres::connect(database, "relay wake-up");
  postgres::guarded(*connection, "looking for the trigger that notifies", [&] {
    pqxx::work tx{*connection};
    if (!notifies(tx, postgres::schemaOf(database))) {
      throw ConfigError("option notify needs the outbox's trigger; run: select " +
                        postgres::schemaOf(database) + ".enable_notify()");
    }
    if (postgres::sharesSession(tx)) {
      throw ConfigError("option notify needs a direct connection; a pooler is in between");
    }
  });
  thread_ = std::jthread([database, &wake](const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      try {
        listen(stop, database, wake);
      } catch (const std::exception& error) {
        base::log.debug("the relay's wake-up connection begins again after: {}", error.what());
        wake.signal();  // something may have been missed
        waitBeforeRetry(stop);
      }
    }
  });
}

void WakeListener::listen(const std::stop_token& stop, const DatabaseOptions& database,
                          base::WakeEvent& wake) {
  const auto connection =
      postgres::connect(database, "relay wake-up", {stop, postgres::kNothingToFinish});
  std::optional<Receiver> receiver;
  postgres::guarded(*connection, "listening for writers", [&] {
    receiver.emplace(*connection, notifyChannel(*connection, postgres::schemaOf(database)), wake);
  });
  wake.signal();
  while (!stop.stop_requested()) (*connection)->await_notification(0, 200'000);
}

}  // namespace pillion::outbox
