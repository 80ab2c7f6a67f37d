#include "base/outage.hpp"

#include <utility>

#include "base/log_line.hpp"

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
  if (!said) return log.warn("{} waits: {}", who_, reason_);
  const auto minutes = std::chrono::duration_cast<std::chrono::minutes>(now - *began_).count();
  log.warn("{} still waits, for {} minutes: {}", who_, minutes, reason_);
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
  log.info("{} goes on", who_);
}

}  // namespace pillion::base
