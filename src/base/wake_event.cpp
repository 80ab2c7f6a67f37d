#include "base/wake_event.hpp"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <system_error>

namespace pillion::base {

WakeEvent::WakeEvent() : fd_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (fd_ < 0) throw std::system_error(errno, std::generic_category(), "eventfd");
}

WakeEvent::~WakeEvent() {
  ::close(fd_);
}

void WakeEvent::signal() noexcept {
  const std::uint64_t one = 1;
  // A full counter is a raised flag already, so a short write loses nothing.
  [[maybe_unused]] const auto written = ::write(fd_, &one, sizeof one);
}

bool WakeEvent::take() noexcept {
  std::uint64_t count = 0;
  return ::read(fd_, &count, sizeof count) == static_cast<ssize_t>(sizeof count);
}

}  // namespace pillion::base
