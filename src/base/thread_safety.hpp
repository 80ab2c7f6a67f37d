#pragma once

#include <mutex>

// What clang's thread-safety analysis needs to know, so that `./dev lint` refuses a guarded member
// that is touched without its mutex. Other compilers see nothing of it.
#ifdef __clang__
#define PILLION_THREAD_SAFETY(attribute) __attribute__((attribute))
#else
#define PILLION_THREAD_SAFETY(attribute)
#endif

/// A member that is read and written with this mutex held.
#define PILLION_GUARDED_BY(mutex) PILLION_THREAD_SAFETY(guarded_by(mutex))
/// A function, or a lambda behind its parameters, that is called with this mutex held.
#define PILLION_REQUIRES(mutex) PILLION_THREAD_SAFETY(requires_capability(mutex))

namespace pillion::base {

/// A std::mutex that the analysis sees: libstdc++'s own carries no annotations. Locked by a
/// MutexLock alone; what waits for it is a std::condition_variable_any.
class PILLION_THREAD_SAFETY(capability("mutex")) Mutex {
 public:
  void lock() PILLION_THREAD_SAFETY(acquire_capability()) { mutex_.lock(); }
  void unlock() PILLION_THREAD_SAFETY(release_capability()) { mutex_.unlock(); }

 private:
  std::mutex mutex_;
};

/// Holds a mutex until the end of its scope, or until `unlock`.
class PILLION_THREAD_SAFETY(scoped_lockable) MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) PILLION_THREAD_SAFETY(acquire_capability(mutex))
      : mutex_(mutex) {
    mutex_.lock();
  }
  ~MutexLock() PILLION_THREAD_SAFETY(release_capability()) {
    if (held_) mutex_.unlock();
  }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

  void lock() PILLION_THREAD_SAFETY(acquire_capability()) {
    mutex_.lock();
    held_ = true;
  }
  void unlock() PILLION_THREAD_SAFETY(release_capability()) {
    held_ = false;
    mutex_.unlock();
  }

 private:
  Mutex& mutex_;
  bool held_ = true;
};

}  // namespace pillion::base
