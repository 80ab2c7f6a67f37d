#include "base/outage.hpp"

#include <spdlog/spdlog.h>

#include <pillion/log.hpp>

namespace pillion::base {

void Outage::began(const Error& error) {
  const bool isNew = reason_.empty();
  reason_ = error.what();
  if (isNew) logger()->warn("{} waits: {}", who_, reason_);
}

void Outage::ended() {
  if (reason_.empty()) return;
  reason_.clear();
  logger()->info("{} goes on", who_);
}

}  // namespace pillion::base
