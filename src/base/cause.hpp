#pragma once

#include <string_view>

namespace pillion::base {

/// The event whose handler runs on this thread: what is published meanwhile follows from it.
/// Borrows from the event.
struct Cause {
  std::string_view eventId = {};
  std::string_view correlationId = {};
  std::string_view traceparent = {};
  std::string_view tracestate = {};
};

/// Null outside of a handler.
inline const Cause*& currentCause() {
  thread_local const Cause* current = nullptr;
  return current;
}

/// Makes a cause the current one for as long as it lives. A copy, since it may be given a
/// temporary.
class CauseScope {
 public:
  explicit CauseScope(const Cause& cause) : cause_(cause), before_(currentCause()) {
    currentCause() = &cause_;
  }
  ~CauseScope() { currentCause() = before_; }
  CauseScope(const CauseScope&) = delete;
  CauseScope& operator=(const CauseScope&) = delete;

 private:
  Cause cause_;
  const Cause* before_;
};

}  // namespace pillion::base
