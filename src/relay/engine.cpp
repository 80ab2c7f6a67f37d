#include "relay/engine.hpp"

#include <algorithm>
#include <utility>

#include "base/failpoint.hpp"
#include "base/log_line.hpp"

namespace pillion::relay {
namespace {

using amqp::Road;
using std::chrono::milliseconds;

constexpr milliseconds kLongWait{1'000};
/// So many changes of parked events are written at once at the latest.
constexpr std::size_t kMostChanges = 2'000;
}  // namespace

Engine::Engine(outbox::EventLog& log, outbox::ParkedFeed& feed, const RelayOptions& options,
               Counters& counters, const base::Clock& clock, base::Random& random)
    : log_(log),
      options_(options),
      counters_(counters),
      clock_(clock),
      suspicion_(log, options.windowEvents + options.pageEvents, clock),
      parking_(options_, clock, random),
      main_(parking_, suspicion_, options_, counters, clock),
      prober_(feed, parking_, suspicion_, options_, counters, clock, random),
      pace_(options.pollFirst, options.pollMost),
      lastWritten_(clock.boot()) {}

// The order of these lines is the order that makes it safe. A crash at any gap publishes again what
// was not checkpointed, and loses nothing: the cursor moves last, and only past events that are
// published, or parked by the same transaction.
void Engine::turn() {
  wait();        // for the broker's word, a wake-up, or the time of the next look
  fetch();       // crash: nothing was sent
  publish();     // crash: sent, unknown; sent again
  confirm();     // crash: published; published again
  checkpoint();  // crash: nothing is repeated
}

void Engine::wait() {
  if (const auto incoming = channel_->receive(idleTime())) handle(*incoming);
}

void Engine::fetch() {
  const Boot now = clock_.boot();
  if (main_.keepsTooMany()) prober_.stopFollowing();
  prober_.read(now);
  main_.readmit();
  if (!takesMore()) return;
  if (prober_.wantsToAsk(now)) {
    if (prober_.needsWritten(now)) writeCheckpoint();
    prober_.ask(now, lanes());
  }
  fetchPage(now);
}

void Engine::publish() {
  while (!blocked_ && main_.maySend()) {
    requireLease();
    main_.sendBurst();
  }
  if (!blocked_ && prober_.maySend()) {
    requireLease();
    prober_.sendBurst();
  }
  main_.sayExpired();
}

/// A relay that was paused may have lost its lanes meanwhile: first the token, then the broker.
void Engine::requireLease() {
  if (clock_.boot() - lastWritten_ > options_.lease / 2) writeCheckpoint();
}

void Engine::confirm() {
  while (const auto incoming = channel_->receive(milliseconds(0))) handle(*incoming);
  if (std::exchange(confirmed_, false)) PILLION_FAILPOINT("relay.confirmed");
  if (blocked_) return;
  main_.requireProgress(clock_.boot());
  prober_.requireProgress(clock_.boot());
}

bool Engine::checkpoint() {
  const Boot now = clock_.boot();
  suspicion_.putDownOld();
  chooseLanesToGive();
  const outbox::ParkedChanges& parked = parking_.changes();
  const bool changed = main_.unsettled().moved() == Unsettled::Moved::PastEvents || !parked.empty();
  const std::size_t changes = parked.park.size() + parked.settled.size();
  const bool due = (changed && now - lastWritten_ >= options_.checkpointEvery) ||
                   (changed && suspicion_.mustWrite()) || changes >= kMostChanges ||
                   !toGive_.positions.empty() || now - lastWritten_ >= options_.renewEvery;
  if (!due) return false;
  writeCheckpoint();
  PILLION_FAILPOINT("relay.checkpointed");
  return true;
}

void Engine::writeCheckpoint() {
  const Boot before = clock_.boot();  // the lease counts from before it was asked for
  const outbox::Checkpoint checkpoint{
      .cursor = main_.unsettled().settledUpTo(),
      .cursorMoved = main_.unsettled().moved() != Unsettled::Moved::No,
      .give = std::exchange(toGive_, {}),
      .parked = parking_.takeChanges()};
  PILLION_FAILPOINT("relay.checkpointing");
  log_.checkpoint(checkpoint);
  suspicion_.written();
  main_.unsettled().written();
  lastWritten_ = before;
  ++counters_.checkpoints;
  parking_.remind(before);
}

// ---- lanes and channels
// ---------------------------------------------------------------------------

void Engine::addLanes(const outbox::Cursor& claimed) {
  if (claimed.positions.empty()) return;
  parking_.addLanes(log_.parkedSummary(claimed.lanes()));
  prober_.addLanes();
  main_.unsettled().addLanes(claimed);
  pace_.lookNow();
}

// Other relays get lanes only at a settled boundary. A lane with something unsettled stays.
void Engine::chooseLanesToGive() {
  if (lanesToGive_ == 0 || !main_.isStill() || prober_.isReading()) return;
  outbox::Lanes chosen = 0;
  const outbox::Lanes idle = lanes() & ~main_.unsettled().busyLanes() & ~prober_.busyLanes();
  for (int lane = outbox::kLanes - 1; lane >= 0 && lanesToGive_ > 0; --lane) {
    if ((idle & outbox::laneBit(lane)) == 0) continue;
    chosen |= outbox::laneBit(lane);
    --lanesToGive_;
  }
  lanesToGive_ = 0;
  toGive_ = main_.unsettled().takeLanes(chosen);
  parking_.dropLanes(chosen);
  prober_.dropLanes(chosen);
  suspicion_.dropLanes(chosen);
}

void Engine::useChannel(amqp::PublishChannel* channel, bool wasAway) {
  channel_ = channel;
  blocked_ = false;
  main_.useChannel(channel, wasAway);
  prober_.useChannel(channel);
  lookNow();  // what was committed while there was none
}

void Engine::channelLost() {
  channel_ = nullptr;
  main_.channelLost();
  prober_.useChannel(nullptr);
}

void Engine::lookNow() {
  pace_.lookNow();
  idle_.woken();
}

bool Engine::finished() const {
  return finishing_ && main_.unsettled().events() == 0 && prober_.idle();
}

// ---- wait and fetch
// -------------------------------------------------------------------------------

std::chrono::microseconds Engine::idleTime() {
  const Boot now = clock_.boot();
  if (!blocked_ && (main_.maySend() || prober_.maySend())) return milliseconds(0);
  Boot until = now + kLongWait;
  if (takesMore()) {
    if (lanes() == 0) until = now + options_.pollMost;
    if (main_.hasRoom(lanes())) until = std::min(until, pace_.next());
    if (const auto due = prober_.nextDue(now)) until = std::min(until, *due);
  }
  until = std::min(until, lastWritten_ + options_.renewEvery);
  if (main_.unsettled().moved() == Unsettled::Moved::PastEvents || !parking_.changes().empty()) {
    until = std::min(until, lastWritten_ + options_.checkpointEvery);
  }
  if (until <= now) return milliseconds(0);
  return std::chrono::ceil<std::chrono::microseconds>(until - now);
}

void Engine::fetchPage(Boot now) {
  const outbox::Lanes clogged = main_.unsettled().clogged();
  if ((std::exchange(cloggedAtLook_, clogged) & ~clogged) != 0) pace_.lookNow();
  if (now < pace_.next() || !main_.hasRoom(lanes())) return;
  outbox::Cursor from = main_.unsettled().fetched();
  from.take(clogged);
  outbox::Page page = log_.fetch(from, suspicion_.alert() ? 1 : options_.pageEvents);
  main_.enter(page);
  paceLooks(page, now);
  if (page.rows.empty()) {
    if (!page.more) suspicion_.caughtUp();
    return;
  }
  ++counters_.pages;
  PILLION_FAILPOINT("relay.fetched");
}

void Engine::paceLooks(const outbox::Page& page, Boot now) {
  const bool found = !page.rows.empty() || page.more;
  found ? pace_.foundEvents(now, page.more) : pace_.foundNothing(now);
  if (!options_.notify) return;
  const bool writersAtWork = std::ranges::any_of(
      main_.unsettled().fetched().positions,
      [](const outbox::Position& position) { return !position.done.inProgress.empty(); });
  switch (idle_.after({found, pace_.idle(), writersAtWork})) {
    case IdleFlag::Do::Nothing:
      break;
    case IdleFlag::Do::LowerFlag:
      log_.setIdle(false);
      break;
    case IdleFlag::Do::RaiseAndLookOnce:
      log_.setIdle(true);
      pace_.lookNow();
      break;
    case IdleFlag::Do::Sleep:
      pace_.sleep(now + options_.notifyPoll);
      break;
  }
}

// ---- confirm
// --------------------------------------------------------------------------------------

void Engine::handle(const amqp::Incoming& incoming) {
  const auto toItsRoad = [this](const auto& word, auto tell) {
    word.road == Road::Main ? tell(main_) : tell(prober_);
  };
  if (const auto* confirm = std::get_if<amqp::Confirm>(&incoming)) {
    confirmed_ = true;
    toItsRoad(*confirm, [&](auto& road) { road.confirmed(*confirm); });
  } else if (const auto* returned = std::get_if<amqp::Returned>(&incoming)) {
    toItsRoad(*returned, [&](auto& road) { road.returned(*returned); });
  } else if (const auto* closed = std::get_if<amqp::ChannelClosed>(&incoming)) {
    if (!closed->aboutMessage) throw BrokerError(closed->text, closed->replyCode);
    toItsRoad(*closed, [&](auto& road) { road.closed(*closed); });
  } else if (const auto* blocked = std::get_if<amqp::Blocked>(&incoming)) {
    blockedIs(*blocked);
  }
}

void Engine::blockedIs(const amqp::Blocked& blocked) {
  blocked_ = blocked.now;
  main_.unblocked(clock_.boot());
  prober_.unblocked(clock_.boot());
  if (blocked_) {
    base::log.warn("RabbitMQ blocks publishers ({}); waiting", blocked.reason);
  } else {
    base::log.info("RabbitMQ accepts messages again");
  }
}

}  // namespace pillion::relay
