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
#include "outbox/wake_listener.hpp"
#include "relay/fences.hpp"
#include "relay/turn.hpp"

namespace pillion::relay {

/// Keeps a relay in business: opens the outbox, connects to the broker, shares the lanes with other
/// relays, runs turns, and begins again from where it must when a server was lost.
///
/// Lanes are taken only with a connection to the broker at hand, and given back when it has been
/// away for a lease while other relays are there: they may reach it.
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
  void dropChannel();
  /// One life of a database session: to its loss, or to the stop.
  void serveLog(const std::stop_token& stop);
  /// One life of a broker connection. Returns when to try again, after it was lost, or when all is
  /// done.
  std::chrono::milliseconds serveChannel(Turn& turn, const std::stop_token& stop);
  void runTurns(Turn& turn, const std::stop_token& stop);
  /// Takes lanes that are free, gives away what is above the fair share, and lets the turn publish
  /// those whose fence is held.
  void shareLanes(Turn& turn);
  void admitLanes(Turn& turn);
  [[nodiscard]] bool othersShouldTry(const Turn& turn) const;
  void moveDue();
  void reclaimSpaceWhenDue();
  void pause(std::chrono::milliseconds limit, const std::stop_token& stop);
  [[nodiscard]] bool drainTimeIsOver() const;

  RelayOptions options_;
  Counters& counters_;
  base::WakeEvent& wake_;
  std::unique_ptr<outbox::PostgresEventLog> log_;
  base::Clock::Boot logOpened_{0};
  std::int64_t formerToken_ = 0;                  // of the log before this one
  std::optional<outbox::WakeListener> listener_;  // with the option notify
  std::unique_ptr<amqp::Connection> channel_;
  std::optional<Fences> fences_;  // on channel_
  outbox::Cursor waiting_;        // lanes of ours whose fence another connection still holds
  base::Clock::Boot nextShare_{0};
  base::Clock::Boot nextAdmission_{0};
  base::Clock::Boot nextMove_{0};
  std::optional<base::Clock::Boot> brokerAwaySince_;
  base::Outage databaseOutage_;
  base::Outage brokerOutage_;
  base::Backoff databaseBackoff_;
  base::Backoff brokerBackoff_;
  std::optional<base::Clock::Boot> stopSince_;
  base::Clock::Boot lastReclaim_{0};
};

}  // namespace pillion::relay
