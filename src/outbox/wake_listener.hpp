#pragma once

#include <pillion/options.hpp>
#include <thread>

#include "base/wake_event.hpp"

namespace pillion::outbox {

/// Turns NOTIFY of writers into the relay's wake event, on a thread and a connection of its own.
/// While that connection is lost the relay's own slow poll goes on.
class WakeListener {
 public:
  /// Throws ConfigError when the outbox has no trigger that notifies, or when a pooler in
  /// transaction mode is in between, which delivers no notification.
  WakeListener(const DatabaseOptions& database, base::WakeEvent& wake);

 private:
  static void listen(const std::stop_token& stop, const DatabaseOptions& database,
                     base::WakeEvent& wake);

  std::jthread thread_;
};

}  // namespace pillion::outbox
