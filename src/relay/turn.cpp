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
/// max_message_size, and the like; 311: content too large (AMQP 0-9-1, section 1.2).
bool isAboutAMessage(const Error& error) {
  const auto* closed = dynamic_cast<const BrokerError*>(&error);
  return closed != nullptr && (closed->replyCode() == 406 || closed->replyCode() == 311);
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
      unroutable_(options.unroutableFirst, options.unroutableMost),
      refusedBackoff_(milliseconds(50), milliseconds(2'000)) {
  lastRenewal_ = clock_.boot();
  addLanes(claimed);
}

void Turn::addLanes(const outbox::Cursor& claimed) {
  if (claimed.positions.empty()) return;
  pipeline_.addLanes(claimed);
  for (const std::string& type : log_.parkedTypes(claimed.lanes())) {
    unroutable_.add(type, clock_.boot());
  }
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
  // A relay that was paused may have lost its lanes meanwhile: first the token, then the broker.
  if (clock_.boot() - lastRenewal_ > options_.lease / 2) writeCheckpoint();
  if (blocked_ || !pipeline_.hasReady() || !windowHasRoom()) return false;
  while (pipeline_.hasReady() && windowHasRoom()) {
    channel_->beginBurst();
    for (std::size_t i = 0; i < kBurst && pipeline_.hasReady() && windowHasRoom(); ++i) sendNext();
    channel_->endBurst();
  }
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
  const bool changed = pipeline_.confirmedMoved() || !pending_.park.empty() ||
                       !pending_.unpark.empty() || !pending_.refuse.empty() ||
                       !pending_.stillParked.empty();
  const bool due = (changed && now - lastCheckpoint_ >= options_.checkpointEvery) ||
                   pending_.park.size() >= options_.pageEvents ||
                   !pending_.give.positions.empty() || now - lastRenewal_ >= options_.renewEvery;
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
  pending_.give = pipeline_.takeLanes(chosen);
}

void Turn::writeCheckpoint() {
  const Boot before = clock_.boot();  // the lease counts from before it was asked for
  pending_.cursor = pipeline_.confirmed();
  pending_.cursorMoved = pipeline_.confirmedMoved();
  PILLION_FAILPOINT("relay.checkpointing");
  if (!log_.checkpoint(pending_)) throw LeaseLost();
  pipeline_.clearConfirmedMoved();
  pending_ = {};
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
}

void Turn::channelLost(const Error& error) {
  channel_ = nullptr;
  inFlightBytes_ = 0;
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
  return pipeline_.unsettledEvents() < options_.pageEvents &&
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
    const std::int64_t id = row.id;
    auto item = itemFrom(std::move(row));
    if (auto* ready = std::get_if<ItemPtr>(&item)) {
      items.push_back(std::move(*ready));
    } else {
      const auto& problem = std::get<amqp::Problem>(item);
      logger()->error("event {} is parked, it cannot be published: {}", id, problem.detail);
      pending_.park.push_back({id, problem.reason});
    }
  }
  const std::size_t passed = page.rows.size() - items.size();
  pipeline_.addPage(page.after, std::move(items), passed);
  if (page.rows.empty() && !page.more) {
    pace_.foundNothing(now);
    return false;
  }
  if (!page.rows.empty()) ++counters_.pages;
  pace_.foundEvents(now, page.more);
  return !page.rows.empty();
}

bool Turn::fetchParked(Boot now) {
  const auto due = unroutable_.due(now);
  if (!due) return false;
  // What was parked or routed since must be in the table before it is read.
  if (!pending_.park.empty() || !pending_.unpark.empty() || !pending_.refuse.empty()) {
    writeCheckpoint();
  }
  auto rows = log_.fetchParked(due->type, lanes(), due->limit);
  std::vector<ItemPtr> items;
  for (Row& row : rows) {
    const std::int64_t id = row.id;
    auto item = itemFrom(std::move(row));
    if (auto* ready = std::get_if<ItemPtr>(&item)) {
      items.push_back(std::move(*ready));
    } else {
      pending_.refuse.push_back(id);
    }
  }
  // None that can be sent, but some that can not: those are set aside first, then it is asked
  // again.
  if (items.empty() && !pending_.refuse.empty()) return false;
  unroutable_.reading(due->type, items.size());
  for (ItemPtr& item : items) pipeline_.addParked(std::move(item));
  return !items.empty();
}

milliseconds Turn::idleTime() const {
  const Boot now = clock_.boot();
  Boot until = now + kLongWait;
  const bool canSend = !blocked_ && pipeline_.hasReady() && windowHasRoom();
  if (canSend || finished()) return milliseconds(0);
  if (!finishing_ && lanesToGive_ == 0) {
    if (hasRoomForPage()) until = std::min(until, pace_.next());
    if (const auto probe = unroutable_.nextDue()) until = std::min(until, *probe);
  }
  if (!refused_.empty()) until = std::min(until, refusedUntil_);
  until = std::min(until, lastRenewal_ + options_.renewEvery);
  if (pipeline_.confirmedMoved())
    until = std::min(until, lastCheckpoint_ + options_.checkpointEvery);
  if (until <= now) return milliseconds(0);
  return std::chrono::ceil<milliseconds>(until - now);
}

bool Turn::windowHasRoom() const {
  const std::size_t inFlight = tracker_.outstanding();
  if (inFlight == 0) return true;
  // A new channel is tried with one message: a broker under a resource alarm takes it, says that it
  // blocks, and nothing hangs in its socket.
  if (!channelProven_ || oneByOne_ > 0) return false;
  return inFlight < options_.windowEvents &&
         inFlightBytes_ + pipeline_.ready().bytes <= options_.windowBytes;
}

void Turn::sendNext() {
  const Item& next = pipeline_.ready();
  // Fetched before its type turned out to be unroutable: it joins the parked ones, so that it does
  // not overtake them when a queue is bound this very moment.
  if (!next.wasParked && unroutable_.contains(next.message.type)) {
    pending_.park.push_back({next.id, "unroutable"});
    pipeline_.settle(pipeline_.take());
    return;
  }
  // An older one of this batch has come back once more: the others stay behind it.
  if (next.wasParked && unroutable_.anyReturned(next.message.type)) {
    unroutable_.returned(next.message.type, clock_.boot());
    pipeline_.settle(pipeline_.take());
    return;
  }
  try {
    const std::uint64_t tag = channel_->publish(next.message);
    inFlightBytes_ += next.bytes;
    tracker_.sent(tag, pipeline_.take(), clock_.boot());
  } catch (const amqp::MessageUnsendable& error) {
    parkRefused(pipeline_.take(), error.what());
    throw;
  }
  PILLION_FAILPOINT("relay.publishing");
}

void Turn::parkRefused(ItemPtr item, const std::string& why) {
  logger()->error("event {} is parked as refused: {}", item->message.messageId, why);
  if (item->wasParked) {
    unroutable_.returned(item->message.type, clock_.boot());
    pending_.refuse.push_back(item->id);
  } else {
    pending_.park.push_back({item->id, "refused"});
  }
  pipeline_.settle(std::move(item));
}

void Turn::handle(amqp::Incoming incoming) {
  if (const auto* confirm = std::get_if<amqp::Confirm>(&incoming)) {
    channelProven_ = true;
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
  if (oneByOne_ > 0) --oneByOne_;
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
      if (item->wasParked) {
        pending_.unpark.push_back(item->id);
        unroutable_.routed(item->message.type);
      }
      pipeline_.settle(std::move(item));
      return;
  }
}

void Turn::settleUnroutable(ItemPtr item) {
  const std::string& type = item->message.type;
  ++counters_.unroutable;
  if (item->wasParked) {
    pending_.stillParked.push_back(item->id);
    unroutable_.returned(type, clock_.boot());
  } else {
    if (!unroutable_.contains(type)) {
      logger()->warn("no queue is bound for events of type '{}'; they are parked until one is",
                     type);
    }
    pending_.park.push_back({item->id, "unroutable"});
    unroutable_.add(type, clock_.boot());
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

void Turn::requireProgress(Boot now) const {
  if (tracker_.outstanding() == 0 || blocked_) return;
  // The oldest, not any: the queue of one event may hang while others are confirmed.
  const Boot since = std::max(tracker_.oldestSent(), unblockedAt_);
  if (now - since < options_.broker.stallTimeout) return;
  throw BrokerError("RabbitMQ has left a message unconfirmed for " +
                    std::to_string(options_.broker.stallTimeout.count()) + " ms");
}

}  // namespace pillion::relay
