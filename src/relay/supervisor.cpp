#include "relay/supervisor.hpp"

#include <poll.h>
#include <algorithm>

#include "amqp/topology.hpp"
#include "base/failpoint.hpp"
#include "base/log_line.hpp"

namespace pillion::relay {
namespace {

using std::chrono::milliseconds;
using namespace std::chrono_literals;

constexpr milliseconds kShareEvery{200};
constexpr milliseconds kFencePoll{250};
constexpr milliseconds kDrainLimit{8'000};
/// After a stop, of the database session: after the drain, a checkpoint and the lanes are left.
constexpr milliseconds kSessionLimit{10'000};
/// An event in hand is waited for so long at most before lanes are admitted.
constexpr std::chrono::seconds kHandsAreFull{2};
/// Another relay, or a look at the table, passes in less.
constexpr milliseconds kLockIsLong{3'000};

base::Clock::Boot now() {
  return base::systemClock().boot();
}

/// The broker was reached, but another connection still holds the fence.
class FenceHeld : public BrokerError {
 public:
  explicit FenceHeld(const std::string& outbox)
      : BrokerError(
            "another connection to RabbitMQ holds the fence of the lanes. It belongs to a"
            " relay that had them before, or to one of a copy of this database: if this is"
            " the copy, run: pillion adopt --new-identity (outbox " +
            outbox + ")") {}
};

}  // namespace

Supervisor::Supervisor(const RelayOptions& options, Counters& counters, base::WakeEvent& wake)
    : options_(options),
      counters_(counters),
      wake_(wake),
      database_("relay '" + options.name + "'", options.broker.reconnectFirst,
                options.broker.reconnectMost),
      broker_("relay '" + options.name + "'", options.broker.reconnectFirst,
              options.broker.reconnectMost),
      fenceOutage_("relay '" + options.name + "'"),
      lockOutage_("relay '" + options.name + "'") {}

void Supervisor::open() {
  try {
    openLog();
  } catch (const Error& error) {
    if (!error.retryable()) throw;
    database_.failed(error);
  }
  if (!log_) return;
  try {
    // Only to find out now what an operator must mend; a relay that stands by holds no connection.
    openChannel();
    if (options_.fence) fences_->requireRights();
    channel_->close();  // or its host would count as failed, and be passed by
  } catch (const Error& error) {
    if (!error.retryable()) throw;
    broker_.failed(error);
  }
  dropChannel();
}

void Supervisor::serve(const std::stop_token& stop) {
  const std::stop_callback endSessions(stop, [this] { stopping_.request_stop(); });
  while (!stop.stop_requested()) {
    try {
      if (!log_) openLog();
      serveLog(stop);
    } catch (const Error& error) {
      database_.failed(error);
    } catch (const std::exception& error) {
      base::log.error("relay '{}' begins again after: {}", options_.name, error.what());
    }
    // Before the log: the lanes must not be free while we could still publish.
    if (channel_) channel_->close();  // or its host would count as failed
    dropChannel();
    if (log_ && log_->token() != 0) formerToken_ = log_->token();
    log_.reset();
    pause(database_.pause(), stop);
  }
}

void Supervisor::openLog() {
  log_ = std::make_unique<outbox::PostgresEventLog>(outbox::EventLogOptions{
      .database = options_.database,
      .relayName = options_.name,
      .lease = options_.lease,
      .pageBytes = options_.pageBytes,
      .endsWithSession = options_.fence,
      .formerToken = formerToken_,
      .bound = {stopping_.get_token(), kSessionLimit},
  });
  database_.connected();
  if (!caretaker_) {
    caretaker_ = std::make_unique<outbox::Caretaker>(outbox::CaretakerOptions{
        .database = options_.database,
        .who = "relay '" + options_.name + "'",
        .pageEvents = options_.pageEvents,
        .pageBytes = options_.pageBytes,
        .retention = options_.retention,
        .reconnectFirst = options_.broker.reconnectFirst,
        .reconnectMost = options_.broker.reconnectMost,
    });
  }
  caretaker_->answerFrom(log_->server());
  if (options_.notify && !listener_) {
    base::Reconnect reconnect("relay '" + options_.name + "' listening for writers",
                              options_.broker.reconnectFirst, options_.broker.reconnectMost);
    listener_.emplace(options_.database, std::move(reconnect), wake_);
  }
}

void Supervisor::serveLog(const std::stop_token& stop) {
  Engine engine(*log_, *caretaker_, options_, counters_);
  waiting_ = {};
  for (;;) {
    const milliseconds retryIn = serveChannel(engine, stop);
    if (engine.finished() || stop.stop_requested() || othersShouldTry(engine)) break;
    engine.checkpoint();  // keeps the lease while the broker is away
    pause(retryIn, stop);
  }
  engine.writeCheckpoint();
  if (channel_) channel_->close();
  dropChannel();
  log_->release();
}

void Supervisor::openChannel() {
  auto channel = std::make_unique<amqp::Connection>(options_.broker, "relay", &wake_);
  amqp::ensureExchange(*channel, options_.broker.exchange, options_.broker.declareTopology);
  channel->openRoads(options_.broker.exchange);
  channel_ = std::move(channel);
  fences_.emplace(*channel_, "pillion.fence." + log_->identity());
}

void Supervisor::dropChannel() {
  fences_.reset();
  channel_.reset();
}

milliseconds Supervisor::serveChannel(Engine& engine, const std::stop_token& stop) {
  milliseconds retryIn{0};
  try {
    openChannel();
    if (options_.fence) holdFencesAgain(engine);
    engine.useChannel(channel_.get(), std::exchange(brokerWasAway_, false));
    runTurns(engine, stop);
    return retryIn;
  } catch (const DatabaseError&) {
    throw;
  } catch (const SchemaError&) {
    throw;
  } catch (const FenceHeld& held) {
    broker_.failed(held);
    retryIn = kFencePoll;
    engine.channelLost();
  } catch (const Error& error) {
    broker_.failed(error);
    brokerWasAway_ = channel_ == nullptr;
    retryIn = std::min(broker_.pause(), options_.renewEvery);
    engine.channelLost();
  }
  dropChannel();
  return retryIn;
}

void Supervisor::runTurns(Engine& engine, const std::stop_token& stop) {
  broker_.connected();
  while (!engine.finished() && !drainTimeIsOver()) {
    if (stop.stop_requested()) {
      if (!stopSince_) stopSince_ = now();
      engine.finish();
    } else {
      shareLanes(engine);
    }
    if (wake_.take()) engine.lookNow();
    engine.turn();
    broker_.holds(engine.channelProven());
  }
}

void Supervisor::shareLanes(Engine& engine) {
  if (now() >= nextShare_) {
    nextShare_ = now() + kShareEvery;
    const outbox::Balance balance = log_->balance();
    database_.holds(false);
    waiting_.add(balance.taken);
    engine.learn(balance);
    sayWhatIsLocked(balance.locked);
    if (balance.surplus > 0) engine.handOver(balance.surplus);
  }
  const bool dueNow = now() >= nextAdmission_ + (engine.handsFree() ? 0s : kHandsAreFull);
  if (!waiting_.positions.empty() && dueNow) admitLanes(engine);
  if (options_.fence) keepFences(engine);
}

void Supervisor::admitLanes(Engine& engine) {
  nextAdmission_ = now() + kFencePoll;
  const outbox::Lanes claimed = waiting_.lanes();
  const outbox::Lanes held = options_.fence ? fences_->hold(claimed) : claimed;
  engine.addLanes(waiting_.take(held));
  if (waiting_.positions.empty()) {
    fenceOutage_.ended();
  } else {
    fenceOutage_.began(FenceHeld(log_->identity()));
  }
  if (held == 0) return;
  base::log.info("relay '{}' holds {} of {} lanes of {}", options_.name,
                 outbox::countLanes(engine.lanes()), outbox::kLanes, log_->identity());
}

void Supervisor::sayWhatIsLocked(int lanes) {
  if (lanes <= 0) {  // more may have become free since they were counted
    return lockOutage_.ended();
  }
  if (!lockOutage_.due(kLockIsLong)) return;
  lockOutage_.began(DatabaseError(DatabaseError::Kind::Unavailable,
                                  std::to_string(lanes) +
                                      " lanes that nobody publishes cannot be taken: their rows,"
                                      " or that of the relay that had them, are locked" +
                                      log_->lockHolders()));
}

void Supervisor::holdFencesAgain(Engine& engine) {
  if (fences_->holdAgain(engine.lanes()) != engine.lanes()) throw FenceHeld(log_->identity());
  if (fences_->anySecond()) engine.writeCheckpoint();  // throws when they are another relay's
}

void Supervisor::keepFences(const Engine& engine) {
  fences_->keepOnly(engine.lanes() | waiting_.lanes());
  if (fences_->anySecond() && now() >= nextFirstFence_) {
    nextFirstFence_ = now() + kFencePoll;
    fences_->leaveSecond();
  }
  const outbox::Lanes lost = fences_->takeLost();
  if (lost == 0) return;
  base::log.warn("the fences of {} lanes were deleted at the broker; they are taken again",
                 outbox::countLanes(lost));
  if (fences_->hold(lost) != lost) throw FenceHeld(log_->identity());
}

bool Supervisor::othersShouldTry(const Engine& engine) const {
  if (log_->token() == 0 || !broker_.awaySince()) return false;
  // One that has no lanes yet has nothing to keep, and a share that others need.
  if (engine.lanes() == 0) return true;
  return now() - *broker_.awaySince() > options_.lease && log_->relaysAlive() > 1;
}

void Supervisor::pause(milliseconds limit, const std::stop_token& stop) {
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

bool Supervisor::drainTimeIsOver() const {
  return stopSince_ && now() - *stopSince_ > kDrainLimit;
}

}  // namespace pillion::relay
