#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "base/once_an_hour.hpp"
#include "base/wake_event.hpp"
#include "inbox/consumer_parts.hpp"
#include "inbox/counters.hpp"
#include "inbox/dead_letter_sender.hpp"
#include "inbox/delivery_queue.hpp"
#include "inbox/group_member.hpp"
#include "inbox/handler_watch.hpp"
#include "inbox/holdings.hpp"
#include "inbox/inbox_name.hpp"
#include "inbox/subscription.hpp"
#include "inbox/worker.hpp"

namespace pillion::inbox {

/// What the threads of a consumer work with, from a start() to the stop() after it.
struct ConsumerRun {
  ConsumerRun(const ConsumerParts& parts, Counters& counters)
      : shared{.options = parts.options,
               .consumer = parts.topology.queue,
               .handlers = parts.handlers,
               .queue = queue,
               .counters = counters,
               .watch = watch,
               .nextLook = nextLook,
               .told = told,
               .letters = letterWake,
               .inboxName = inboxName},
        letters(parts.options, parts.topology.queue, letterWake, shared.database),
        subscription(parts.options.broker, parts.topology, parts.options, queue, holdings,
                     inboxName, wake, counters, watch) {
    for (int i = 0; i < parts.options.workers; ++i) {
      workers.push_back(std::make_unique<Worker>(shared));
    }
    if (parts.options.partitions == 0) return;
    member = std::make_unique<GroupMember>(parts.options.database, parts.topology.queue,
                                           parts.options.partitions, holdings);
  }

  /// What waiting cannot heal is thrown. Whose queue it is and how many partitions there are is
  /// known before anything is declared, and the broker is reached before a partition is claimed.
  void open() {
    for (auto& worker : workers) worker->open();
    if (member) member->open();
    subscription.open();
    if (member) member->open();
    subscription.settle();
  }

  base::WakeEvent wake;
  DeliveryQueue queue{wake};
  Holdings holdings{wake};
  InboxName inboxName{wake};
  HandlerWatch watch;
  NextLook nextLook;
  base::OnceAnHour told;
  base::WakeEvent letterWake;
  Shared shared;
  DeadLetterSender letters;
  std::vector<std::unique_ptr<Worker>> workers;
  Subscription subscription;
  std::unique_ptr<GroupMember> member;  // with partitions
  std::atomic<bool> brokerEnded{false};
};

}  // namespace pillion::inbox
