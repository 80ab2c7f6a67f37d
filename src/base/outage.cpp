#include "base/outage.hpp"

#include <spdlog/spdlog.h>

#include <pillion/log.hpp>
#include <utility>

namespace pillion::base {

namespace {

constexpr std::chrono::minutes kSayAgain{5};

}  // namespace

void Outage::began(const Error& error) {
  // What somebody must mend is not hidden behind what merely passes.
  const std::string reason = error.what();
  const bool said = !reason_.empty() && (error.retryable() || reason == reason_);
  const auto now = clock_->boot();
  if (!began_) began_ = now;
  reason_ = reason;
  if (said && now < nextLine_) return;
  nextLine_ = now + kSayAgain;
  if (!said) return logger()->warn("{} waits: {}", who_, reason_);
  const auto minutes = std::chrono::duration_cast<std::chrono::minutes>(now - *began_).count();
  logger()->warn("{} still waits, for {} minutes: {}", who_, minutes, reason_);
}

bool Outage::due(Clock::Boot after) {
  const auto now = clock_->boot();
  if (!began_) began_ = now;
  return now - *began_ >= after && now >= nextLine_;
}

void Outage::ended() {
  began_.reset();
  nextLine_ = {};
  if (std::exchange(reason_, {}).empty()) return;
  logger()->info("{} goes on", who_);
}

}  // namespace pillion::base
