#include "relay/suspicion.hpp"

#include <spdlog/spdlog.h>

#include <pillion/log.hpp>

namespace pillion::relay {

void Suspicion::learn(const outbox::Balance& balance) {
  if (balance.endangered == 0) return;
  if (!alert()) {
    logger()->warn("{} relays in a row ended before they got further; sending events one by one",
                   balance.crashes);
  }
  outbox::Cursor taken = balance.taken;
  endangered_.add(taken.take(balance.endangered));
  suspects_.insert(balance.suspects.begin(), balance.suspects.end());
}

void Suspicion::note(std::optional<std::int64_t> id) {
  if (!alert() || noted_ == id) return;
  log_.suspect(id);
  noted_ = id;
}

void Suspicion::moved(const outbox::Cursor& confirmed) {
  endangered_.take(confirmed.movedSince(endangered_));
}

}  // namespace pillion::relay
