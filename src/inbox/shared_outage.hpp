#pragma once

#include <set>
#include <string>
#include <utility>

#include "base/outage.hpp"
#include "base/thread_safety.hpp"

namespace pillion::inbox {

/// The threads of a consumer say once together that PostgreSQL is away, and that it is back for
/// all.
class SharedOutage {
 public:
  explicit SharedOutage(std::string who) : outage_(std::move(who)) {}

  void began(const void* thread, const Error& error) {
    const base::MutexLock lock(mutex_);
    waiting_.insert(thread);
    outage_.began(error);
  }
  void ended(const void* thread) {
    const base::MutexLock lock(mutex_);
    if (waiting_.erase(thread) > 0 && waiting_.empty()) outage_.ended();
  }

 private:
  base::Mutex mutex_;
  base::Outage outage_ PILLION_GUARDED_BY(mutex_);
  std::set<const void*> waiting_ PILLION_GUARDED_BY(mutex_);
};

}  // namespace pillion::inbox
