#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <pillion/error.hpp>
#include <pillion/relay.hpp>
#include <set>
#include <string>
#include <vector>

#include "amqp/channel.hpp"
#include "base/backoff.hpp"
#include "base/clock.hpp"
#include "outbox/event_log.hpp"
#include "relay/confirm_tracker.hpp"
#include "relay/parking.hpp"
#include "relay/pipeline.hpp"
#include "relay/poll_pace.hpp"
#include "relay/suspicion.hpp"

namespace pillion::relay {

/// Written by the relay's thread, read by any.
struct Counters {
  std::atomic<std::uint64_t> published{0};
  std::atomic<std::uint64_t> nacked{0};
  std::atomic<std::uint64_t> unroutable{0};
  std::atomic<std::uint64_t> parked{0};
  std::atomic<std::uint64_t> dropped{0};
  std::atomic<std::uint64_t> expired{0};
  std::atomic<std::uint64_t> repeated{0};
  std::atomic<std::uint64_t> pages{0};
  std::atomic<std::uint64_t> checkpoints{0};
};

/// Everything a relay holds between the claim of its first lanes and the loss of its database
/// session. It outlives connections to the broker: what was in flight on one is sent again on the
/// next.
class Turn {
 public:
  Turn(outbox::EventLog& log, const outbox::Cursor& claimed, const RelayOptions& options,
       Counters& counters, const base::Clock& clock = base::systemClock());

  /// Lanes of this relay that may be published from now on, with where they are.
  void addLanes(const outbox::Cursor& claimed);
  /// What is known of the relays that had the lanes before. To be told before they are added.
  void learn(const outbox::Balance& balance) { suspicion_.learn(balance); }
  [[nodiscard]] outbox::Lanes lanes() const { return pipeline_.fetched().lanes(); }

  /// Gives so many lanes to other relays at the next confirmed boundary. Nothing is fetched until
  /// then, so it comes within the time in which what was fetched is confirmed.
  void handOver(int lanes) { lanesToGive_ = lanes; }

  /// A new channel, for the first time or after `channelLost`.
  void useChannel(amqp::PublishChannel* channel);

  /// What was unconfirmed is unknown, goes back to the front and is sent again. When the broker
  /// closed the channel over a message and only one was in flight, that one is parked as refused;
  /// when more were, they are sent one by one: the culprit is found and the others get through.
  /// What was left unconfirmed for too long waits for a while, so that the others get through
  /// meanwhile.
  void channelLost(const Error& error);

  /// Has the broker confirmed anything on this channel?
  [[nodiscard]] bool channelProven() const { return channelProven_; }

  /// One relay turn: wait, fetch, publish, confirm, checkpoint. Throws DatabaseError or
  /// BrokerError; after the first the object is useless, after the second `useChannel` is due.
  /// Throws LeaseLost when another relay holds the lanes.
  void run();

  /// From now on nothing is fetched: what is in memory is finished. Then nothing of it would be
  /// published twice by the next relay.
  void finish() { finishing_ = true; }
  [[nodiscard]] bool finished() const;

  /// Look at the outbox in the next turn.
  void lookNow() {
    pace_.lookNow();
    wakeUp_ = true;
  }

  /// Writes what is settled and renews the lease. Also to be called while there is no channel.
  void writeCheckpoint();
  /// Does what is due by time: writeCheckpoint every so often. True when it wrote.
  bool checkpoint();

 private:
  using Boot = base::Clock::Boot;

  void wait();
  bool fetch();
  bool publish();
  bool confirm();

  bool fetchPage(Boot now);
  bool fetchParked(Boot now);
  bool hasRoomForPage() const;
  void sleepOrWake(Boot now, bool found);
  void chooseLanesToGive();
  std::chrono::microseconds idleTime() const;
  /// For the next ready event; needs one.
  bool windowHasRoom() const;
  ItemPtr itemToSend(Row& row);
  void sendNext(Boot now);
  bool settleUnsent();
  void handle(amqp::Incoming incoming);
  void park(const Item& item, const std::string& reason, int attempts);
  void settle(Verdict verdict, ItemPtr item);
  void settleUnroutable(ItemPtr item);
  void sayExpired();
  void parkRefused(ItemPtr item, const std::string& why);
  void parkSent(const Item& item, const std::string& reason);
  void retryLater(ItemPtr item);
  void readyAgain(Boot now);
  void requireProgress(Boot now);

  outbox::EventLog& log_;
  RelayOptions options_;
  Counters& counters_;
  const base::Clock& clock_;

  amqp::PublishChannel* channel_ = nullptr;
  Pipeline pipeline_;
  ConfirmTracker<ItemPtr> tracker_;
  std::size_t inFlightBytes_ = 0;
  PollPace pace_;
  enum class Sleep { Awake, LookingOnceMore, Asleep } sleep_ = Sleep::Awake;
  bool wakeUp_ = false;
  Parking parking_;
  outbox::Cursor toGive_;  // lanes to be given away with the next checkpoint
  std::vector<ItemPtr> refused_;
  base::Backoff refusedBackoff_;
  Boot refusedUntil_{0};
  Boot lastCheckpoint_{0};
  Boot lastRenewal_{0};
  Boot unblockedAt_{0};
  Boot lastConfirm_{0};
  int lanesToGive_ = 0;
  std::uint64_t settled_ = 0;
  bool channelProven_ = false;  // at least one confirm came on this channel
  std::size_t oneByOne_ = 0;    // so many events are sent alone: one of them may be the culprit
  std::size_t hungInFlight_ = 0;
  Suspicion suspicion_;
  std::uint64_t expiredUnsaid_ = 0;
  std::set<std::string> droppedTypes_;  // those that were spoken of
  bool blocked_ = false;
  bool finishing_ = false;
};

/// The lanes belong to another relay now. Nothing was written; become a new incarnation.
class LeaseLost : public DatabaseError {
 public:
  LeaseLost() : DatabaseError(Kind::Unavailable, "another relay has taken the lanes over") {}
};

}  // namespace pillion::relay
