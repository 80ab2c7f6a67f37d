#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <pillion/relay.hpp>
#include <stop_token>

#include "amqp/connection.hpp"
#include "base/outage.hpp"
#include "base/reconnect.hpp"
#include "base/wake_event.hpp"
#include "outbox/caretaker.hpp"
#include "outbox/postgres_event_log.hpp"
#include "outbox/wake_listener.hpp"
#include "relay/engine.hpp"
#include "relay/fences.hpp"

namespace pillion::relay {

/// Keeps a relay in business: opens the outbox, connects to the broker, shares the lanes with other
/// relays, runs turns, and begins again from where it must when a server was lost.
///
/// Lanes are taken only with a connection to the broker at hand, and given back when it has been
/// away for a lease while other relays are there: they may reach it.
class Supervisor {
 public:
  Supervisor(const RelayOptions& options, Counters& counters, base::WakeEvent& wake);

  /// First contact with both servers. Returns when they are there or merely away; throws
  /// ConfigError or SchemaError for what waiting cannot heal.
  void open();

  /// Until stop is requested. Errors of the servers are waited out.
  void serve(const std::stop_token& stop);

 private:
  void openLog();
  void openChannel();
  void dropChannel();
  /// One life of a database session: to its loss, or to the stop.
  void serveLog(const std::stop_token& stop);
  /// One life of a broker connection. Returns when to try again, after it was lost, or when all is
  /// done.
  std::chrono::milliseconds serveChannel(Engine& engine, const std::stop_token& stop);
  void runTurns(Engine& engine, const std::stop_token& stop);
  /// Takes lanes that are free, gives away what is above the fair share, and lets the engine
  /// publish those whose fence is held.
  void shareLanes(Engine& engine);
  void admitLanes(Engine& engine);
  void sayWhatIsLocked(int lanes);
  void holdFencesAgain(Engine& engine);
  void keepFences(const Engine& engine);
  [[nodiscard]] bool othersShouldTry(const Engine& engine) const;
  void pause(std::chrono::milliseconds limit, const std::stop_token& stop);
  [[nodiscard]] bool drainTimeIsOver() const;

  RelayOptions options_;
  Counters& counters_;
  base::WakeEvent& wake_;
  std::unique_ptr<outbox::PostgresEventLog> log_;
  std::unique_ptr<outbox::Caretaker> caretaker_;
  std::int64_t formerToken_ = 0;                  // of the log before this one
  std::optional<outbox::WakeListener> listener_;  // with the option notify
  std::unique_ptr<amqp::Connection> channel_;
  std::optional<Fences> fences_;  // on channel_
  outbox::Cursor waiting_;        // lanes of ours whose fence another connection still holds
  base::Clock::Boot nextShare_{0};
  base::Clock::Boot nextAdmission_{0};
  base::Clock::Boot nextFirstFence_{0};
  bool brokerWasAway_ = true;  // it could not be reached since the last connection
  base::Reconnect database_;
  base::Reconnect broker_;
  base::Outage fenceOutage_;
  base::Outage lockOutage_;
  std::optional<base::Clock::Boot> stopSince_;
  std::stop_source stopping_;  // of the database sessions, which may be older than serve()
};

}  // namespace pillion::relay
