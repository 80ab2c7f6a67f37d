#pragma once

#include <string>

#include "base/thread_safety.hpp"
#include "base/wake_event.hpp"

namespace pillion::inbox {

/// Which inbox this is, to the broker; known once a worker has reached the database.
class InboxName {
 public:
  explicit InboxName(base::WakeEvent& toBroker) : toBroker_(toBroker) {}

  void set(const std::string& name) {
    {
      const base::MutexLock lock(mutex_);
      name_ = name;
    }
    toBroker_.signal();
  }
  /// Empty: not known yet.
  [[nodiscard]] std::string get() const {
    const base::MutexLock lock(mutex_);
    return name_;
  }

 private:
  base::WakeEvent& toBroker_;
  mutable base::Mutex mutex_;
  std::string name_ PILLION_GUARDED_BY(mutex_);
};

}  // namespace pillion::inbox
