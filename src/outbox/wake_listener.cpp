#include "outbox/wake_listener.hpp"

#include <optional>
#include <pillion/error.hpp>
#include <pqxx/pqxx>
#include <utility>

#include "base/log_line.hpp"
#include "base/pause.hpp"
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

}  // namespace

WakeListener::WakeListener(DatabaseOptions database, base::Reconnect reconnect,
                           base::WakeEvent& wake)
    : database_(std::move(database)), reconnect_(std::move(reconnect)), wake_(wake) {
  const auto connection = postgres::connect(database_, "relay wake-up");
  postgres::guarded(*connection, "looking for the trigger that notifies", [&] {
    pqxx::work tx{*connection};
    if (!notifies(tx, postgres::schemaOf(database_))) {
      throw ConfigError("option notify needs the outbox's trigger; run: select " +
                        postgres::schemaOf(database_) + ".enable_notify()");
    }
    if (postgres::sharesSession(tx)) {
      throw ConfigError("option notify needs a direct connection; a pooler is in between");
    }
  });
  thread_ = std::jthread([this](const std::stop_token& stop) { listen(stop); });
}

void WakeListener::listen(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    try {
      listenOnce(stop);
      continue;
    } catch (const Error& error) {
      reconnect_.failed(error);
    } catch (const std::exception& error) {
      base::log.error("the relay listens for writers again after: {}", error.what());
    }
    wake_.signal();  // something may have been missed
    base::pause(stop, reconnect_.pause());
  }
}

void WakeListener::listenOnce(const std::stop_token& stop) {
  const auto connection =
      postgres::connect(database_, "relay wake-up", {stop, postgres::kNothingToFinish});
  std::optional<Receiver> receiver;
  postgres::guarded(*connection, "listening for writers", [&] {
    receiver.emplace(*connection, notifyChannel(*connection, postgres::schemaOf(database_)), wake_);
    reconnect_.connected();
    wake_.signal();
    while (!stop.stop_requested()) {
      (*connection)->await_notification(0, 200'000);
      reconnect_.holds(false);
    }
  });
}

}  // namespace pillion::outbox
