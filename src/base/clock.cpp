#include "base/clock.hpp"

#include <ctime>

namespace pillion::base {
namespace {

class SystemClock : public Clock {
 public:
  [[nodiscard]] Wall wall() const override { return std::chrono::system_clock::now(); }
  [[nodiscard]] Boot boot() const override {
    timespec now{};
    ::clock_gettime(CLOCK_BOOTTIME, &now);
    return std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec);
  }
};

}  // namespace

const Clock& systemClock() {
  static const SystemClock clock;
  return clock;
}

}  // namespace pillion::base
