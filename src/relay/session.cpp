#include "relay/session.hpp"

#include <poll.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <pillion/log.hpp>

#include "amqp/topology.hpp"

namespace pillion::relay {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kStandbyPoll{200};
constexpr milliseconds kFencePoll{250};
constexpr milliseconds kSettled{1'000};
constexpr milliseconds kDrainLimit{10'000};
constexpr std::chrono::seconds kReclaimEvery{60};

base::Clock::Boot now() {
  return base::systemClock().boot();
}

/// The broker was reached, but a predecessor's connection still holds the fence.
class FenceHeld : public BrokerError {
 public:
  FenceHeld() : BrokerError("the connection of a relay that held the lanes before is still open") {}
};

}  // namespace

Session::Session(const RelayOptions& options, Counters& counters, base::WakeEvent& wake)
    : options_(options),
      counters_(counters),
      wake_(wake),
      databaseOutage_("relay '" + options.name + "'"),
      brokerOutage_("relay '" + options.name + "'"),
      databaseBackoff_(options.broker.reconnectFirst, options.broker.reconnectMost),
      brokerBackoff_(options.broker.reconnectFirst, options.broker.reconnectMost) {}

void Session::open() {
  try {
    openLog();
  } catch (const Error& error) {
    if (!error.retryable()) throw;
    databaseOutage_.began(error);
  }
  if (!log_) return;
  try {
    // Only to find out now what an operator must mend; a relay that stands by holds no connection.
    openChannel();
  } catch (const FenceHeld&) {
    logger()->debug("the fence is held; that is for later");
  } catch (const Error& error) {
    if (!error.retryable()) throw;
    brokerOutage_.began(error);
  }
  channel_.reset();
}

void Session::serve(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    try {
      if (!log_) openLog();
      serveLog(stop);
    } catch (const Error& error) {
      databaseOutage_.began(error);
    } catch (const std::exception& error) {
      logger()->error("relay '{}' begins again after: {}", options_.name, error.what());
    }
    channel_.reset();  // before the log: the lanes must not be free while we could still publish
    log_.reset();
    pause(databaseBackoff_.next(), stop);
  }
}

void Session::openLog() {
  log_ = std::make_unique<outbox::PostgresEventLog>(outbox::EventLogOptions{
      .database = options_.database,
      .relayName = options_.name,
      .lease = options_.lease,
      .pageEvents = options_.pageEvents,
      .pageBytes = options_.pageBytes,
  });
}

void Session::serveLog(const std::stop_token& stop) {
  const auto claimed = waitForLanes(stop);
  if (!claimed) return;
  databaseOutage_.ended();
  databaseBackoff_.reset();
  logger()->info("relay '{}' holds the lanes of {}", options_.name, log_->identity());
  Turn turn(*log_, *claimed, options_, counters_);
  for (;;) {
    const milliseconds retryIn = serveChannel(turn, stop);
    if (turn.finished() || stop.stop_requested()) break;
    turn.checkpoint();  // keeps the lease while the broker is away
    pause(retryIn, stop);
  }
  turn.writeCheckpoint();
  if (channel_) channel_->close();
  channel_.reset();
  log_->release();
}

std::optional<outbox::Cursor> Session::waitForLanes(const std::stop_token& stop) {
  bool said = false;
  while (!stop.stop_requested()) {
    if (auto cursor = log_->claim()) return cursor;
    databaseOutage_.ended();
    if (!said) logger()->info("relay '{}' stands by: another relay holds the lanes", options_.name);
    said = true;
    pause(kStandbyPoll, stop);
  }
  return std::nullopt;
}

void Session::openChannel() {
  auto channel = std::make_unique<amqp::Connection>(options_.broker, "relay", &wake_);
  if (options_.fence && !channel->holdExclusiveQueue("pillion.fence." + log_->identity())) {
    throw FenceHeld();
  }
  amqp::ensureExchange(*channel, options_.broker.exchange, options_.broker.declareTopology);
  channel->selectConfirms(options_.broker.exchange);
  channel_ = std::move(channel);
}

milliseconds Session::serveChannel(Turn& turn, const std::stop_token& stop) {
  milliseconds retryIn{0};
  try {
    openChannel();
    turn.useChannel(channel_.get());
    runTurns(turn, stop);
    return retryIn;
  } catch (const DatabaseError&) {
    throw;
  } catch (const SchemaError&) {
    throw;
  } catch (const FenceHeld& held) {
    brokerOutage_.began(held);
    retryIn = kFencePoll;
    turn.channelLost(held);
  } catch (const Error& error) {
    brokerOutage_.began(error);
    retryIn = std::min(brokerBackoff_.next(), options_.renewEvery);
    turn.channelLost(error);
  }
  channel_.reset();
  return retryIn;
}

void Session::runTurns(Turn& turn, const std::stop_token& stop) {
  const auto opened = now();
  bool settled = false;
  while (!turn.finished() && !drainTimeIsOver()) {
    if (stop.stop_requested()) {
      if (!stopSince_) stopSince_ = now();
      turn.finish();
    }
    if (wake_.take()) turn.lookNow();
    turn.run();
    // A connection that breaks at the first message is no recovery: it must neither end the outage
    // nor shorten the wait before the next attempt.
    if (!settled && (turn.channelProven() || now() - opened > kSettled)) {
      settled = true;
      brokerOutage_.ended();
      brokerBackoff_.reset();
    }
    reclaimSpaceWhenDue();
  }
}

void Session::reclaimSpaceWhenDue() {
  if (now() - lastReclaim_ < kReclaimEvery) return;
  lastReclaim_ = now();
  log_->reclaimSpace();
}

void Session::pause(milliseconds limit, const std::stop_token& stop) {
  // A wake-up means that something was committed, which is no reason to knock at a server sooner;
  // only a stop, which raises the same flag, ends the pause.
  pollfd wake{wake_.fd(), POLLIN, 0};
  const auto end = now() + limit;
  while (!stop.stop_requested() && now() < end) {
    const auto left = std::chrono::ceil<milliseconds>(end - now());
    ::poll(&wake, 1, static_cast<int>(left.count()));
    wake_.take();
  }
}

bool Session::drainTimeIsOver() const {
  return stopSince_ && now() - *stopSince_ > kDrainLimit;
}

}  // namespace pillion::relay
