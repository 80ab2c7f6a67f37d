#include "relay/turn.hpp"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <pillion/log.hpp>

#include "base/failpoint.hpp"

namespace pillion::relay {
namespace {

using std::chrono::milliseconds;

constexpr std::size_t kBurst = 64;  // messages per corked write
constexpr milliseconds kLongWait{1'000};

/// Did the broker close the channel over what was sent on it? 406: larger than its
/// max_message_size, and the like; 311: content too large (AMQP 0-9-1, section 1.2); 403, when it
/// names a topic: a routing key that the user may not write (RabbitMQ, "Topic Authorisation").
bool isAboutAMessage(const Error& error) {
  const auto* closed = dynamic_cast<const BrokerError*>(&error);
  if (closed == nullptr) return false;
  if (closed->replyCode() == 403) {
    return std::string_view(closed->what()).find("access to topic") != std::string_view::npos;
  }
  return closed->replyCode() == 406 || closed->replyCode() == 311;
}

/// As much of an item as parking it needs.
ItemPtr stubOf(const Row& row) {
  auto stub = std::make_unique<Item>();
  stub->id = row.id;
  stub->lane = row.lane;
  stub->hasKey = !row.key.empty();
  stub->message.type = row.type;
  stub->message.attributes.emplace(
      amqp::Message::Attributes{.time = row.time, .key = row.key, .expiresAt = ""});
  return stub;
}

}  // namespace

Turn::Turn(outbox::EventLog& log, const outbox::Cursor& claimed, const RelayOptions& options,
           Counters& counters, const base::Clock& clock)
    : log_(log),
      options_(options),
      counters_(counters),
      clock_(clock),
      pipeline_({}),
      pace_(options.pollFirst, options.pollMost),
      parking_(log, options_, clock),
      refusedBackoff_(milliseconds(50), milliseconds(2'000)),
      suspicion_(log) {
  lastRenewal_ = clock_.boot();
  addLanes(claimed);
}

void Turn::addLanes(const outbox::Cursor& claimed) {
  if (claimed.positions.empty()) return;
  pipeline_.addLanes(claimed);
  parking_.addLanes(claimed.lanes());
  pace_.lookNow();
}

// The order of these lines is the order that makes it safe. A crash at any gap publishes again what
// was not checkpointed, and loses nothing: the cursor moves last, and only past confirmed events.
void Turn::run() {
  wait();  // for the broker's word, a wake-up, or the time of the next look
  if (fetch()) PILLION_FAILPOINT("relay.fetched");            // crash: nothing was sent
  if (publish()) PILLION_FAILPOINT("relay.published");        // crash: sent, unknown; sent again
  if (confirm()) PILLION_FAILPOINT("relay.confirmed");        // crash: published; published again
  if (checkpoint()) PILLION_FAILPOINT("relay.checkpointed");  // crash: nothing is repeated
}

void Turn::wait() {
  if (auto incoming = channel_->receive(idleTime())) handle(std::move(*incoming));
}

bool Turn::fetch() {
  const Boot now = clock_.boot();
  readyAgain(now);
  if (finishing_ || lanesToGive_ > 0) return false;
  const bool parked = fetchParked(now);
  return fetchPage(now) || parked;
}

bool Turn::publish() {
  if (blocked_ || !pipeline_.hasReady() || !windowHasRoom()) return false;
  while (pipeline_.hasReady() && windowHasRoom()) {
    // A relay that was paused may have lost its lanes meanwhile: first the token, then the broker.
    if (clock_.boot() - lastRenewal_ > options_.lease / 2) writeCheckpoint();
    const Boot now = clock_.boot();  // after the checkpoint, which may have taken its time
    channel_->beginBurst();
    for (std::size_t i = 0; i < kBurst && pipeline_.hasReady() && windowHasRoom(); ++i) {
      sendNext(now);
    }
    channel_->endBurst();
  }
  sayExpired();
  return true;
}

bool Turn::confirm() {
  while (auto incoming = channel_->receive(milliseconds(0))) handle(std::move(*incoming));
  requireProgress(clock_.boot());
  return std::exchange(settled_, 0) > 0;
}

bool Turn::checkpoint() {
  const Boot now = clock_.boot();
  chooseLanesToGive();
  const bool changed = pipeline_.confirmedMoved() || parking_.changed();
  const bool due = (changed && now - lastCheckpoint_ >= options_.checkpointEvery) ||
                   parking_.parkedUnwritten() >= options_.pageEvents ||
                   !toGive_.positions.empty() || now - lastRenewal_ >= options_.renewEvery;
  if (!due) return false;
  writeCheckpoint();
  return true;
}

// Other relays get lanes only at a confirmed boundary. What was refused for now keeps its lane
// here, and so does what waits behind it; of the other lanes nothing is under way any more.
void Turn::chooseLanesToGive() {
  if (lanesToGive_ == 0 || tracker_.outstanding() > 0 || pipeline_.hasReady()) return;
  outbox::Lanes chosen = 0;
  const outbox::Lanes idle = pipeline_.idleLanes();
  for (int lane = outbox::kLanes - 1; lane >= 0 && lanesToGive_ > 0; --lane) {
    if ((idle & outbox::laneBit(lane)) == 0) continue;
    chosen |= outbox::laneBit(lane);
    --lanesToGive_;
  }
  lanesToGive_ = 0;
  toGive_ = pipeline_.takeLanes(chosen);
  parking_.dropLanes(chosen);
  suspicion_.dropLanes(chosen);
}

void Turn::writeCheckpoint() {
  const Boot before = clock_.boot();  // the lease counts from before it was asked for
  const outbox::Checkpoint checkpoint{.cursor = pipeline_.confirmed(),
                                      .cursorMoved = pipeline_.confirmedMoved(),
                                      .give = std::exchange(toGive_, {}),
                                      .parked = parking_.takeChanges()};
  PILLION_FAILPOINT("relay.checkpointing");
  if (!log_.checkpoint(checkpoint)) throw LeaseLost();
  suspicion_.moved(checkpoint.cursor);
  pipeline_.clearConfirmedMoved();
  lastCheckpoint_ = lastRenewal_ = before;
  ++counters_.checkpoints;
}

bool Turn::finished() const {
  return finishing_ && pipeline_.unsettledEvents() == 0;
}

void Turn::useChannel(amqp::PublishChannel* channel) {
  channel_ = channel;
  blocked_ = false;
  channelProven_ = false;
  lookNow();  // what was committed while there was none
}

void Turn::channelLost(const Error& error) {
  channel_ = nullptr;
  inFlightBytes_ = hungInFlight_ = 0;
  auto unknown = tracker_.takeAll();
  counters_.repeated += unknown.size();
  if (!isAboutAMessage(error)) {
    pipeline_.putBack(std::move(unknown));
  } else if (unknown.size() == 1) {
    parkRefused(std::move(unknown.front()), error.what());
  } else {
    oneByOne_ = unknown.size();
    pipeline_.putBack(std::move(unknown));
  }
}

bool Turn::hasRoomForPage() const {
  // A page beyond the window: while one is sent, the next is read.
  return pipeline_.unsettledEvents() < options_.windowEvents + options_.pageEvents &&
         pipeline_.unsettledBytes() < options_.pageBytes;
}

bool Turn::fetchPage(Boot now) {
  if (!hasRoomForPage() || now < pace_.next()) return false;
  if (lanes() == 0) {
    pace_.foundNothing(now);
    return false;
  }
  outbox::Page page = log_.fetch(pipeline_.fetched());
  std::vector<ItemPtr> items;
  items.reserve(page.rows.size());
  for (Row& row : page.rows) {
    if (auto item = itemToSend(row)) items.push_back(std::move(item));
  }
  suspicion_.note({});
  const std::size_t passed = page.rows.size() - items.size();
  pipeline_.addPage(page.after, std::move(items), passed);
  const bool found = !page.rows.empty() || page.more;
  if (!found) pace_.foundNothing(now);
  if (options_.notify) sleepOrWake(now, found);
  if (!found) return false;
  if (!page.rows.empty()) ++counters_.pages;
  pace_.foundEvents(now, page.more);
  return !page.rows.empty();
}

/// Nothing when no message can be made of it: then it is parked.
ItemPtr Turn::itemToSend(Row& row) {
  if (suspicion_.isSuspect(row.id)) {
    logger()->error("event {} is parked: relays have ended while they handled it", row.id);
    park(*stubOf(row), "suspect", outbox::kCrashesToSuspect + outbox::kDeathsToBlame);
    return nullptr;
  }
  suspicion_.note(row.id);
  auto made = itemFrom(row);
  if (auto* item = std::get_if<ItemPtr>(&made)) return std::move(*item);
  const auto& problem = std::get<amqp::Problem>(made);
  logger()->error("event {} is parked, it cannot be published: {}", row.id, problem.detail);
  park(*stubOf(row), problem.reason, 0);
  return nullptr;
}

void Turn::park(const Item& item, const std::string& reason, int attempts) {
  parking_.park(item, reason, attempts);
  ++counters_.parked;
}

/// With `notify`: says that it sleeps, looks once more, and sleeps when that look saw no writer at
/// work who could have asked before it was said.
void Turn::sleepOrWake(Boot now, bool found) {
  const bool woken = std::exchange(wakeUp_, false);
  if (found || (woken && sleep_ == Sleep::Asleep)) {
    if (sleep_ != Sleep::Awake) log_.setIdle(false);
    sleep_ = Sleep::Awake;
    return;
  }
  if (sleep_ == Sleep::Awake) {
    if (!pace_.idle()) return;
    log_.setIdle(true);
    sleep_ = Sleep::LookingOnceMore;
    pace_.lookNow();
    return;
  }
  const auto& positions = pipeline_.fetched().positions;
  const bool writersAtWork = std::ranges::any_of(
      positions, [](const auto& position) { return !position.done.inProgress.empty(); });
  if (sleep_ == Sleep::LookingOnceMore && writersAtWork) return;
  sleep_ = Sleep::Asleep;
  pace_.sleep(now + options_.notifyPoll);
}

bool Turn::fetchParked(Boot now) {
  const auto due = parking_.nextDue();
  if (!due || *due > now || !hasRoomForPage()) return false;
  // What was parked or published since must be in the table before it is read.
  if (parking_.changed()) writeCheckpoint();
  auto items = parking_.fetch(now, lanes());
  const bool any = !items.empty();
  for (ItemPtr& item : items) pipeline_.addParked(std::move(item));
  return any;
}

std::chrono::microseconds Turn::idleTime() const {
  const Boot now = clock_.boot();
  Boot until = now + kLongWait;
  const bool canSend = !blocked_ && pipeline_.hasReady() && windowHasRoom();
  if (canSend || finished()) return milliseconds(0);
  if (!finishing_ && lanesToGive_ == 0) {
    const auto due = parking_.nextDue();
    if (hasRoomForPage()) until = std::min({until, pace_.next(), due.value_or(until)});
  }
  if (!refused_.empty()) until = std::min(until, refusedUntil_);
  until = std::min(until, lastRenewal_ + options_.renewEvery);
  if (pipeline_.confirmedMoved())
    until = std::min(until, lastCheckpoint_ + options_.checkpointEvery);
  if (until <= now) return milliseconds(0);
  return std::chrono::ceil<std::chrono::microseconds>(until - now);
}

bool Turn::windowHasRoom() const {
  const std::size_t inFlight = tracker_.outstanding();
  if (inFlight == 0) return true;
  // A new channel is tried with one message: a broker under a resource alarm takes it, says that it
  // blocks, and nothing hangs in its socket. One whose queue hangs proves nothing.
  if (!channelProven_ && inFlight == hungInFlight_) return true;
  if (!channelProven_ || oneByOne_ > 0 || suspicion_.alert()) return false;
  if (pipeline_.ready().readAs == ReadAs::Refused) return false;  // the channel may close over it
  return inFlight < options_.windowEvents &&
         inFlightBytes_ + pipeline_.ready().bytes <= options_.windowBytes;
}

void Turn::sendNext(Boot now) {
  if (settleUnsent()) return;
  const Item& next = pipeline_.ready();
  suspicion_.note(next.id);
  if (next.readAs == ReadAs::Refused) oneByOne_ = std::max<std::size_t>(oneByOne_, 1);
  try {
    const std::uint64_t tag = channel_->publish(next.message);
    inFlightBytes_ += next.bytes;
    if (next.hung) ++hungInFlight_;
    tracker_.sent(tag, pipeline_.take(), now);
  } catch (const amqp::MessageUnsendable& error) {
    parkRefused(pipeline_.take(), error.what());
    throw;
  }
  PILLION_FAILPOINT("relay.publishing");
}

/// Some are not to be sent now, so that they overtake nobody; or never again by us.
bool Turn::settleUnsent() {
  const Item& next = pipeline_.ready();
  if (next.expiresAt && *next.expiresAt <= clock_.wall()) {
    if (next.readAs != ReadAs::Logged) parking_.expired(next);
    ++expiredUnsaid_;
  } else if (next.readAs != ReadAs::Logged) {
    if (parking_.mustGoBack(next)) {
      parking_.goBack(next);
    } else if (suspicion_.isSuspect(next.id)) {
      parking_.cameBack(next, "suspect");
    } else {
      return false;
    }
  } else if (const auto reason = parking_.reasonToPark(next)) {
    park(next, *reason, 0);
  } else {
    return false;
  }
  pipeline_.settle(pipeline_.take());
  return true;
}

/// Once for all of a turn, of which there may be many.
void Turn::sayExpired() {
  if (expiredUnsaid_ == 0) return;
  counters_.expired += expiredUnsaid_;
  logger()->info("{} events had expired before it was their turn; they are not published",
                 std::exchange(expiredUnsaid_, 0));
}

void Turn::parkRefused(ItemPtr item, const std::string& why) {
  logger()->error("event {} is parked as refused: {}", item->message.messageId, why);
  parkSent(*item, "refused");
  pipeline_.settle(std::move(item));
}

void Turn::parkSent(const Item& item, const std::string& reason) {
  if (item.readAs != ReadAs::Logged) {
    parking_.cameBack(item, reason);
    return;
  }
  park(item, reason, 1);
}

void Turn::handle(amqp::Incoming incoming) {
  if (const auto* confirm = std::get_if<amqp::Confirm>(&incoming)) {
    channelProven_ = true;
    lastConfirm_ = clock_.boot();
    tracker_.confirmed(*confirm,
                       [this](Verdict verdict, ItemPtr item) { settle(verdict, std::move(item)); });
  } else if (const auto* returned = std::get_if<amqp::Returned>(&incoming)) {
    tracker_.returned(
        [&](const ItemPtr& item) { return item->message.messageId == returned->messageId; });
  } else if (const auto* blocked = std::get_if<amqp::Blocked>(&incoming)) {
    blocked_ = blocked->now;
    unblockedAt_ = clock_.boot();
    if (blocked_) {
      logger()->warn("RabbitMQ blocks publishers ({}); waiting", blocked->reason);
    } else {
      logger()->info("RabbitMQ accepts messages again");
    }
  }
}

void Turn::settle(Verdict verdict, ItemPtr item) {
  ++settled_;
  inFlightBytes_ -= item->bytes;
  if (item->hung) --hungInFlight_;
  if (oneByOne_ > 0) --oneByOne_;
  suspicion_.note({});
  switch (verdict) {
    case Verdict::Refused:
      ++counters_.nacked;
      retryLater(std::move(item));
      return;
    case Verdict::Unroutable:
      settleUnroutable(std::move(item));
      return;
    case Verdict::Routed:
      ++counters_.published;
      if (item->wasNacked) refusedBackoff_.reset();
      if (item->readAs != ReadAs::Logged) parking_.published(*item);
      pipeline_.settle(std::move(item));
      return;
  }
}

void Turn::settleUnroutable(ItemPtr item) {
  const std::string& type = item->message.type;
  ++counters_.unroutable;
  if (options_.unroutable == UnroutablePolicy::Drop) {
    ++counters_.dropped;
    if (droppedTypes_.insert(type).second) {
      logger()->warn("no queue is bound for events of type '{}'; they are dropped", type);
    }
    if (item->readAs != ReadAs::Logged) parking_.published(*item);
  } else {
    if (!parking_.knowsUnroutable(type)) {
      logger()->warn("no queue is bound for events of type '{}'; they are parked until one is",
                     type);
    }
    parkSent(*item, "unroutable");
  }
  pipeline_.settle(std::move(item));
}

void Turn::retryLater(ItemPtr item) {
  item->wasNacked = true;
  if (refused_.empty()) refusedUntil_ = clock_.boot() + refusedBackoff_.next();
  refused_.push_back(std::move(item));
}

void Turn::readyAgain(Boot now) {
  if (refused_.empty() || now < refusedUntil_) return;
  pipeline_.putBack(std::exchange(refused_, {}));
}

void Turn::requireProgress(Boot now) {
  if (tracker_.outstanding() == 0 || blocked_) return;
  // The oldest, not any: the queue of one event may hang while others are confirmed.
  const Boot stall = options_.broker.stallTimeout;
  if (now - std::max(tracker_.oldestSent(), unblockedAt_) < stall) return;
  for (ItemPtr& item : tracker_.takeSentUntil(now - stall)) {
    item->hung = true;
    retryLater(std::move(item));
  }
  // When nothing at all was confirmed, it is not the fault of a queue.
  if (now - lastConfirm_ < stall) refusedUntil_ = std::max(refusedUntil_, now + stall);
  throw BrokerError("RabbitMQ has left a message unconfirmed for " +
                    std::to_string(options_.broker.stallTimeout.count()) + " ms");
}

}  // namespace pillion::relay
