#include "relay/suspicion.hpp"

#include <algorithm>
#include <utility>

#include "base/log_line.hpp"

namespace pillion::relay {
namespace {

/// What ends a relay does so when it is handled, not while the broker is waited for.
constexpr std::chrono::seconds kHandledWithin{1};

}  // namespace

void Suspicion::learn(const outbox::Balance& balance) {
  if (balance.endangered == 0) return;
  endangered_ |= balance.endangered;
  left_ = danger_;
  first_ = true;
  suspects_.insert(balance.suspects.begin(), balance.suspects.end());
  crashes_ = std::max(crashes_, balance.crashes);
}

void Suspicion::dropLanes(outbox::Lanes lanes) {
  endangered_ &= ~lanes;
  if (!alert()) endAlert();
}

void Suspicion::handle(std::int64_t id) {
  if (!alert() || !mayHandle(id) || notedAt_) return;
  if (!said_) {  // not before there is an event: relays of an empty outbox are killed by chance
    base::log.warn("{} relays in a row ended before they got further; sending events one by one",
                   crashes_);
    said_ = true;
  }
  log_.noteInHand(id);
  inHand_ = id;
  notedAt_ = clock_.boot();
}

void Suspicion::settled(std::int64_t id) {
  if (inHand_ != id) return;
  inHand_.reset();
  notedAt_.reset();
  log_.acquit(id);
  // The next relay, too, is past it then, and what ends that is another event.
  if (std::exchange(first_, false)) mustWrite_ = true;
  if (left_ > 0) --left_;
  if (left_ == 0) endAlert();
}

void Suspicion::putDown(std::int64_t id) {
  if (inHand_ != id) return;
  inHand_.reset();
  forgetNote();
}

void Suspicion::putDownOld() {
  if (notedAt_ && clock_.boot() - *notedAt_ >= kHandledWithin) forgetNote();
}

void Suspicion::caughtUp() {
  if (alert() && !inHand_) endAlert();
}

void Suspicion::forgetNote() {
  if (std::exchange(notedAt_, std::nullopt)) log_.noteInHand(std::nullopt);
}

void Suspicion::endAlert() {
  endangered_ = 0;
  inHand_.reset();
  forgetNote();
  crashes_ = 0;
  said_ = false;
}

}  // namespace pillion::relay
