#include "base/outage.hpp"

#include <spdlog/spdlog.h>

#include <pillion/log.hpp>

namespace pillion::base {

void Outage::began(const Error& error) {
  // Said once; but what somebody must mend is not hidden behind what merely passes.
  const std::string reason = error.what();
  const bool said = !reason_.empty() && (error.retryable() || reason == reason_);
  reason_ = reason;
  if (!said) logger()->warn("{} waits: {}", who_, reason_);
}

void Outage::ended() {
  if (reason_.empty()) return;
  reason_.clear();
  logger()->info("{} goes on", who_);
}

}  // namespace pillion::base
