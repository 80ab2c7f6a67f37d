#include "relay/session.hpp"

#include <poll.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <pillion/log.hpp>

#include "amqp/topology.hpp"
#include "base/failpoint.hpp"

namespace pillion::relay {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kShareEvery{200};
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
  dropChannel();
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
    dropChannel();  // before the log: the lanes must not be free while we could still publish
    if (log_ && log_->token() != 0) formerToken_ = log_->token();
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
      .retention = options_.retention,
      .endsWithSession = options_.fence,
      .formerToken = formerToken_,
  });
  logOpened_ = now();
  if (options_.notify && !listener_) listener_.emplace(options_.database, wake_);
}

void Session::serveLog(const std::stop_token& stop) {
  Turn turn(*log_, {}, options_, counters_);
  waiting_ = {};
  brokerAwaySince_.reset();
  for (;;) {
    const milliseconds retryIn = serveChannel(turn, stop);
    if (turn.finished() || stop.stop_requested() || othersShouldTry(turn)) break;
    turn.checkpoint();  // keeps the lease while the broker is away
    pause(retryIn, stop);
  }
  turn.writeCheckpoint();
  if (channel_) channel_->close();
  dropChannel();
  log_->release();
}

void Session::openChannel() {
  auto channel = std::make_unique<amqp::Connection>(options_.broker, "relay", &wake_);
  amqp::ensureExchange(*channel, options_.broker.exchange, options_.broker.declareTopology);
  channel->selectConfirms(options_.broker.exchange);
  channel_ = std::move(channel);
  fences_.emplace(*channel_, "pillion.fence." + log_->identity());
}

void Session::dropChannel() {
  fences_.reset();
  channel_.reset();
}

milliseconds Session::serveChannel(Turn& turn, const std::stop_token& stop) {
  milliseconds retryIn{0};
  try {
    openChannel();
    if (options_.fence && fences_->hold(turn.lanes()) != turn.lanes()) throw FenceHeld();
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
  if (!brokerAwaySince_) brokerAwaySince_ = now();
  dropChannel();
  return retryIn;
}

void Session::runTurns(Turn& turn, const std::stop_token& stop) {
  const auto opened = now();
  bool settled = false;
  while (!turn.finished() && !drainTimeIsOver()) {
    if (stop.stop_requested()) {
      if (!stopSince_) stopSince_ = now();
      turn.finish();
    } else {
      shareLanes(turn);
    }
    moveDue();
    if (wake_.take()) turn.lookNow();
    turn.run();
    // A connection that breaks at the first message is no recovery: it must neither end the outage
    // nor shorten the wait before the next attempt.
    if (!settled && (turn.channelProven() || now() - opened > kSettled)) {
      settled = true;
      brokerOutage_.ended();
      brokerBackoff_.reset();
      brokerAwaySince_.reset();
    }
    reclaimSpaceWhenDue();
  }
}

void Session::shareLanes(Turn& turn) {
  if (now() >= nextShare_) {
    nextShare_ = now() + kShareEvery;
    const outbox::Balance balance = log_->balance();
    // A session that ends at its first checkpoint is no recovery.
    if (now() - logOpened_ > kSettled) {
      databaseOutage_.ended();
      databaseBackoff_.reset();
    }
    waiting_.add(balance.taken);
    turn.learn(balance);
    if (balance.surplus > 0) turn.handOver(balance.surplus);
  }
  if (!waiting_.positions.empty() && now() >= nextAdmission_) admitLanes(turn);
  if (options_.fence) fences_->keepOnly(turn.lanes() | waiting_.lanes());
}

void Session::admitLanes(Turn& turn) {
  nextAdmission_ = now() + kFencePoll;
  const outbox::Lanes claimed = waiting_.lanes();
  const outbox::Lanes held = options_.fence ? fences_->hold(claimed) : claimed;
  if (held == 0) return;
  turn.addLanes(waiting_.take(held));
  logger()->info("relay '{}' holds {} of {} lanes of {}", options_.name,
                 outbox::countLanes(turn.lanes()), outbox::kLanes, log_->identity());
}

bool Session::othersShouldTry(const Turn& turn) const {
  return (turn.lanes() | waiting_.lanes()) != 0 && brokerAwaySince_ &&
         now() - *brokerAwaySince_ > options_.lease && log_->relaysAlive() > 1;
}

void Session::moveDue() {
  if (stopSince_ || now() < nextMove_) return;
  nextMove_ = now() + log_->moveDue();
  PILLION_FAILPOINT("relay.moved");  // crash: what was due is in the log, and goes on from there
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
