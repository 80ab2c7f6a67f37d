#pragma once

#include <utility>

namespace pillion::relay {

/// With the option `notify`: when a relay may sleep until a writer wakes it. It says that it wants
/// to, looks once more, and sleeps when that look saw no writer at work who could have asked before
/// it was said. No I/O.
class IdleFlag {
 public:
  /// What a look at the outbox has shown.
  struct Look {
    bool foundEvents = false;
    bool longInVain = false;     // nothing was found for long enough that looks are rare
    bool writersAtWork = false;  // in its snapshot
  };
  enum class Do {
    Nothing,
    LowerFlag,         // writers need not notify any more
    RaiseAndLookOnce,  // writers are to notify from now on; look at once
    Sleep,
  };

  void woken() { woken_ = true; }

  Do after(const Look& look) {
    const bool woken = std::exchange(woken_, false);
    if (look.foundEvents || (woken && state_ == State::Asleep)) {
      const bool raised = std::exchange(state_, State::Awake) != State::Awake;
      return raised ? Do::LowerFlag : Do::Nothing;
    }
    if (state_ == State::Awake) {
      if (!look.longInVain) return Do::Nothing;
      state_ = State::LookingOnceMore;
      return Do::RaiseAndLookOnce;
    }
    if (state_ == State::LookingOnceMore && look.writersAtWork) return Do::Nothing;
    state_ = State::Asleep;
    return Do::Sleep;
  }

 private:
  enum class State { Awake, LookingOnceMore, Asleep } state_ = State::Awake;
  bool woken_ = false;
};

}  // namespace pillion::relay
