#pragma once

namespace pillion::base {

/// A flag that another thread, or a signal handler, can raise and that poll(2) can wait for.
class WakeEvent {
 public:
  WakeEvent();
  ~WakeEvent();
  WakeEvent(const WakeEvent&) = delete;
  WakeEvent& operator=(const WakeEvent&) = delete;

  /// Async-signal-safe.
  void signal() noexcept;
  /// Lowers the flag; true when it was up.
  bool take() noexcept;
  [[nodiscard]] int fd() const noexcept { return fd_; }

 private:
  int fd_;
};

}  // namespace pillion::base
