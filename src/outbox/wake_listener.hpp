#pragma once

#include <pillion/options.hpp>
#include <thread>

#include "base/reconnect.hpp"
#include "base/wake_event.hpp"

namespace pillion::outbox {

/// Turns NOTIFY of writers into the relay's wake event, on a thread and a connection of its own.
/// While that connection is lost the relay's own slow poll goes on.
class WakeListener {
 public:
  /// Throws ConfigError when the outbox has no trigger that notifies, or when a pooler in
  /// transaction mode is in between, which delivers no notification.
  /// `reconnect` names it for log lines, and has its pauses.
  WakeListener(DatabaseOptions database, base::Reconnect reconnect, base::WakeEvent& wake);
  WakeListener(const WakeListener&) = delete;
  WakeListener& operator=(const WakeListener&) = delete;

 private:
  void listen(const std::stop_token& stop);
  void listenOnce(const std::stop_token& stop);

  DatabaseOptions database_;
  base::Reconnect reconnect_;
  base::WakeEvent& wake_;
  std::jthread thread_;  // the last member: it uses all others
};

}  // namespace pillion::outbox
