#pragma once

#include <memory>
#include <pillion/consumer.hpp>
#include <string>

#include "base/once_an_hour.hpp"
#include "base/wake_event.hpp"
#include "inbox/counters.hpp"
#include "inbox/delivery_queue.hpp"
#include "inbox/handler_table.hpp"
#include "inbox/handler_watch.hpp"
#include "inbox/inbox_name.hpp"
#include "inbox/next_look.hpp"
#include "inbox/shared_reconnect.hpp"

namespace pillion::inbox {

/// What the workers of a consumer share; outlives them.
struct Shared {
  const ConsumerOptions& options;
  std::string consumer;
  const HandlerTable& handlers;
  DeliveryQueue& queue;
  Counters& counters;
  HandlerWatch& watch;
  NextLook& nextLook;
  base::OnceAnHour& told;
  base::WakeEvent& letters;  // raised when a dead letter was written
  InboxName& inboxName;
  std::shared_ptr<SharedReconnect> database = std::make_shared<SharedReconnect>(
      "consumer '" + consumer + "'", options.broker.reconnectFirst, options.broker.reconnectMost);
};

}  // namespace pillion::inbox
