#include "relay/prober.hpp"

#include <algorithm>
#include <utility>

namespace pillion::relay {
namespace {

using outbox::ParkedAnswer;
using outbox::ParkedQuestion;
using outbox::Reason;
using As = ParkedPlace::As;

constexpr std::size_t kKeysAtOnce = 1'000;  // held keys that are looked after
constexpr std::chrono::seconds kHeadsEvery{1};
constexpr std::chrono::seconds kFollowFor{1};
constexpr std::chrono::milliseconds kLookForAnswer{2};
}  // namespace

Prober::Prober(outbox::ParkedFeed& feed, Parking& parking, Suspicion& suspicion,
               const RelayOptions& options, Counters& counters, const base::Clock& clock,
               base::Random& random)
    : feed_(feed),
      parking_(parking),
      suspicion_(suspicion),
      options_(options),
      counters_(counters),
      clock_(clock),
      window_(std::min(options.windowEvents, amqp::kMostAtHungQueues), options.windowBytes,
              probeLimit(options)),
      refusedBackoff_(options.refusedFirst, options.refusedMost, 2.0, random) {}

void Prober::useChannel(amqp::PublishChannel* channel) {
  channel_ = channel;
  channelIsOpen_ = false;
  auto unknown = tracker_.takeAll();
  counters_.repeated += unknown.size();
  for (const ItemPtr& item : unknown) parking_.types().ended(item->message.type, false);
  unsettled_.putBack(std::move(unknown));
  window_.reset(clock_.boot());
}

void Prober::read(Boot now) {
  if (auto answer = asked_ ? feed_.answer() : std::nullopt) take(std::move(*answer), now);
  if (parking_.anyRefused() && nextRefused_ == Boot{0}) {
    nextRefused_ = now + refusedBackoff_.next();
  }
  advancePass(now);
}

std::optional<Prober::Kind> Prober::nextQuestion(Boot now) const {
  const bool room = unsettled_.events() < options_.windowEvents + options_.pageEvents &&
                    unsettled_.bytes() < options_.pageBytes;
  if (asked_ || channel_ == nullptr || !room) return std::nullopt;
  if (probed_.empty() && parking_.types().due(now) != nullptr) return Kind::Probe;
  if (parking_.anyRefused() && !refusedOnItsWay_ && nextRefused_ <= now) return Kind::Refused;
  if (pass_ == Pass::Reading || pass_ == Pass::LastRead) return Kind::Pass;
  if (pass_ == Pass::None && passWanted_) return Kind::Pass;
  if (parking_.anyHeldKey() && nextHeads_ <= now) return Kind::Heads;
  return std::nullopt;
}

bool Prober::needsWritten(Boot now) const {
  // A pass that goes on reads behind what is not written; unless that is of a type that it leaves
  // alone from now on, and so all that seems to wait for it.
  const bool goesOn = pass_ == Pass::Reading && nextQuestion(now) == Kind::Pass && !leavesMore();
  return goesOn ? !parking_.changes().park.empty() : parking_.mustBeWritten();
}

/// Than when it last read.
bool Prober::leavesMore() const {
  return left_.size() != leftAsked_ || !std::ranges::includes(left_, parking_.types().closed());
}

void Prober::ask(Boot now, outbox::Lanes lanes) {
  const auto kind = nextQuestion(now);
  if (!kind) return;
  left_.merge(parking_.types().closed());  // also of those that will be open soon
  ParkedQuestion question{.kind = *kind, .lanes = lanes, .after = 0, .type = {}, .names = {}};
  switch (*kind) {
    case Kind::Probe:
      probed_ = question.type = *parking_.types().due(now);
      question.after = passFrom_;
      parking_.types().probing(probed_);
      break;
    case Kind::Refused:
      question.after = refusedAfter_;
      // Unless one comes, or is in the answer.
      if (refusedAfter_ == 0) parking_.foundRefused(false);
      break;
    case Kind::Pass:
      if (pass_ == Pass::None) beginPass(lanes);
      question.lanes = passLanes_;
      question.after = passAt_;
      question.names.assign(left_.begin(), left_.end());
      leftAsked_ = left_.size();
      movableAsked_ = parking_.parkedMovable();
      break;
    case Kind::Heads:
      question.names = parking_.someHeldKeys(kKeysAtOnce);
      serialAsked_ = parking_.serial();
      nextHeads_ = now + kHeadsEvery;
      break;
  }
  asked_ = question;
  feed_.ask(std::move(question));
}

void Prober::beginPass(outbox::Lanes lanes) {
  pass_ = Pass::Reading;
  passWanted_ = lanesCame_ = false;
  passLanes_ = lanes;
  passAt_ = passFrom_;
  left_ = parking_.types().closed();
  keptKeys_.clear();
}

void Prober::take(ParkedAnswer answer, Boot now) {
  const ParkedQuestion asked = *std::exchange(asked_, std::nullopt);
  switch (asked.kind) {
    case Kind::Probe:
      if (answer.rows.empty()) {
        if (parking_.types().foundNone(asked.type, now)) {
          parking_.recovered(asked.type);
          passWanted_ = true;
        }
        probed_.clear();
        return;
      }
      enter(answer.rows.front(), As::Probe);
      return;
    case Kind::Refused:
      if (answer.rows.empty()) {
        refusedAfter_ = 0;
        nextRefused_ = parking_.anyRefused() ? now + refusedBackoff_.next() : Boot{0};
        return;
      }
      parking_.foundRefused(true);
      refusedAfter_ = answer.rows.front().seq;
      refusedOnItsWay_ = true;
      enter(answer.rows.front(), As::Refused);
      return;
    case Kind::Pass:
      takePass(std::move(answer), now);
      return;
    case Kind::Heads:
      takeHeads(asked, answer);
      return;
  }
}

void Prober::takeHeads(const ParkedQuestion& asked, const ParkedAnswer& answer) {
  for (const std::string& key : asked.names) {
    if (!parking_.heldSince(key, serialAsked_)) continue;
    const auto head = answer.heads.find(key);
    if (head == answer.heads.end()) {
      parking_.release(key);
    } else if (outbox::isOfType(head->second.reason) || head->second.reason == Reason::Held) {
      // While a pass is at it, that is known. Else it waits for nothing but its type.
      if (pass_ == Pass::None && idle()) passWanted_ |= parking_.isHead(key, head->second);
    }
  }
}

void Prober::takePass(ParkedAnswer answer, Boot now) {
  // Lanes that came since it was asked may have rows before that.
  if (passAt_ == passFrom_ && !lanesCame_) passFrom_ = passAt_ = std::max(passFrom_, answer.first);
  passAt_ = std::max(passAt_, answer.upTo);
  for (outbox::ParkedRow& row : answer.rows) enter(row, As::Pass);
  if (!answer.end) return;
  pass_ = parking_.parkedMovable() == movableAsked_ ? Pass::Draining : Pass::LastRead;
  if (!parking_.following()) followUntil_ = now + kFollowFor;
  parking_.follow(true);
}

void Prober::advancePass(Boot now) {
  if (pass_ == Pass::None && !asked_ && idle()) keptKeys_.clear();
  if (parking_.following() && now >= followUntil_) stopFollowing();
  if (pass_ != Pass::Draining || !idle()) return;
  for (const std::string& type : parking_.types().open()) {
    if (!left_.contains(type) && !lanesCame_) parking_.recovered(type);
  }
  parking_.follow(false);
  pass_ = Pass::None;
  passWanted_ = passWanted_ || lanesCame_ || parking_.types().anyOpen();
}

void Prober::stopFollowing() {
  parking_.follow(false);
  if (pass_ == Pass::LastRead || pass_ == Pass::Draining) pass_ = Pass::Reading;
}

void Prober::enter(outbox::ParkedRow& row, As as) {
  const ParkedPlace place{.as = as, .seq = row.seq, .reason = row.reason, .holds = row.holds};
  // A probe may be what a pass has read already.
  if (onRoad_.contains(row.seq)) return ended(place, row.row.type);
  const bool isSuspect = suspicion_.isSuspect(row.row.id);
  if (!isSuspect) {
    auto made = itemFrom(row.row);
    if (auto* item = std::get_if<ItemPtr>(&made)) {
      (*item)->parked = place;
      onRoad_.insert(row.seq);
      unsettled_.addParked(std::move(*item));
      return;
    }
  }
  parking_.giveUp(row, isSuspect ? Reason::Suspect : Reason::Invalid);
  if (row.holds) keptKeys_.try_emplace(row.row.key, row.seq);
  ended(place, row.row.type);
}

/// A probe or a refused event has left this road without a word on what it was tried for.
void Prober::ended(const ParkedPlace& place, const std::string& type) {
  if (place.as == As::Probe) {
    probed_.clear();
    parking_.types().inconclusive(type, clock_.boot());
  }
  if (place.as == As::Refused) {
    refusedOnItsWay_ = false;
    nextRefused_ = clock_.boot();
  }
}

std::optional<Prober::Boot> Prober::nextDue(Boot now) const {
  if (channel_ == nullptr) return std::nullopt;
  std::optional<Boot> next;
  const auto orAt = [&](Boot at) { next = next ? std::min(*next, at) : at; };
  if (asked_) orAt(now + kLookForAnswer);
  if (parking_.following()) orAt(followUntil_);
  if (pass_ == Pass::Draining && idle()) orAt(now);
  if (nextQuestion(now)) orAt(now);
  // What is due and cannot be asked waits for an answer, or for room: there is no use in a look.
  const auto orLater = [&](Boot at) {
    if (at > now) orAt(at);
  };
  if (probed_.empty()) {
    if (const auto due = parking_.types().nextDue()) orLater(*due);
  }
  if (parking_.anyRefused() && !refusedOnItsWay_) orLater(nextRefused_);
  if (parking_.anyHeldKey()) orLater(nextHeads_);
  return next;
}

}  // namespace pillion::relay
