#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <pillion/relay.hpp>
#include <stop_token>

#include "amqp/connection.hpp"
#include "base/backoff.hpp"
#include "base/outage.hpp"
#include "base/wake_event.hpp"
#include "outbox/postgres_event_log.hpp"
#include "relay/turn.hpp"

namespace pillion::relay {

/// Keeps a relay in business: opens the outbox, stands by until the lanes are free, connects to the
/// broker, runs turns, and begins again from where it must when a server was lost.
class Session {
 public:
  Session(const RelayOptions& options, Counters& counters, base::WakeEvent& wake);

  /// First contact with both servers. Returns when they are there or merely away; throws
  /// ConfigError or SchemaError for what waiting cannot heal.
  void open();

  /// Until stop is requested. Errors of the servers are waited out.
  void serve(const std::stop_token& stop);

 private:
  void openLog();
  void openChannel();
  /// One life of a database session: from the claim to the loss of the session, or to the stop.
  void serveLog(const std::stop_token& stop);
  std::optional<outbox::Cursor> waitForLanes(const std::stop_token& stop);
  /// One life of a broker connection. Returns when to try again, after it was lost, or when all is
  /// done.
  std::chrono::milliseconds serveChannel(Turn& turn, const std::stop_token& stop);
  void runTurns(Turn& turn, const std::stop_token& stop);
  void reclaimSpaceWhenDue();
  void pause(std::chrono::milliseconds limit, const std::stop_token& stop);
  [[nodiscard]] bool drainTimeIsOver() const;

  RelayOptions options_;
  Counters& counters_;
  base::WakeEvent& wake_;
  std::unique_ptr<outbox::PostgresEventLog> log_;
  std::unique_ptr<amqp::Connection> channel_;
  base::Outage databaseOutage_;
  base::Outage brokerOutage_;
  base::Backoff databaseBackoff_;
  base::Backoff brokerBackoff_;
  std::optional<base::Clock::Boot> stopSince_;
  base::Clock::Boot lastReclaim_{0};
};

}  // namespace pillion::relay
