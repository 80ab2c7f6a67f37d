#pragma once

#include <chrono>
#include <cstdint>
#include <pillion/relay.hpp>

#include "amqp/channel.hpp"
#include "base/clock.hpp"
#include "outbox/event_log.hpp"
#include "relay/counters.hpp"
#include "relay/idle_flag.hpp"
#include "relay/main_road.hpp"
#include "relay/parking.hpp"
#include "relay/poll_pace.hpp"
#include "relay/prober.hpp"
#include "relay/suspicion.hpp"

namespace pillion::relay {

/// Publishes the events of the lanes that a relay holds, turn by turn, between the claim of its
/// first lanes and the loss of its database session. It outlives connections to the broker: what
/// was in flight on one is sent again on the next.
class Engine {
 public:
  Engine(outbox::EventLog& log, outbox::ParkedFeed& feed, const RelayOptions& options,
         Counters& counters, const base::Clock& clock = base::systemClock(),
         base::Random& random = base::systemRandom());

  /// One turn: wait, fetch, publish, confirm, checkpoint. Throws DatabaseError or BrokerError;
  /// after the first the object is useless, after the second `useChannel` is due. Throws LeaseLost
  /// when another relay holds the lanes.
  void turn();

  /// Lanes of this relay that may be published from now on, with where they are.
  void addLanes(const outbox::Cursor& claimed);
  /// What is known of the relays that had the lanes before. To be told before they are added.
  void learn(const outbox::Balance& balance) { suspicion_.learn(balance); }
  [[nodiscard]] outbox::Lanes lanes() const { return main_.unsettled().fetched().lanes(); }
  /// Is there no event that is handled alone, since relays ended over one? Then this is a good
  /// moment for what takes long: a relay that ends meanwhile is no event's fault.
  [[nodiscard]] bool handsFree() const { return suspicion_.handsFree(); }
  /// Gives so many lanes to other relays at the next settled boundary. Nothing is fetched until
  /// then, so it comes within the time in which what was fetched is settled.
  void handOver(int lanes) { lanesToGive_ = lanes; }

  /// A new connection, for the first time or after `channelLost`. `wasAway`: between the two the
  /// broker could not be reached for a while.
  void useChannel(amqp::PublishChannel* channel, bool wasAway = true);
  /// What was unconfirmed is unknown; see both roads.
  void channelLost();
  /// Has the broker confirmed anything on this connection?
  [[nodiscard]] bool channelProven() const { return main_.proven(); }

  /// Look at the outbox in the next turn.
  void lookNow();
  /// From now on nothing is fetched: what is in memory is finished. Then nothing of it would be
  /// published twice by the next relay.
  void finish() { finishing_ = true; }
  [[nodiscard]] bool finished() const;

  /// Writes what is settled and renews the lease. Also to be called while there is no channel.
  void writeCheckpoint();
  /// Does what is due by time: writeCheckpoint every so often. True when it wrote.
  bool checkpoint();

 private:
  using Boot = base::Clock::Boot;

  void wait();
  void fetch();
  void publish();
  void confirm();

  [[nodiscard]] std::chrono::microseconds idleTime();
  /// Not while it finishes, or is about to give lanes away.
  [[nodiscard]] bool takesMore() const { return !finishing_ && lanesToGive_ == 0; }
  void fetchPage(Boot now);
  void paceLooks(const outbox::Page& page, Boot now);
  void requireLease();
  void handle(const amqp::Incoming& incoming);
  void blockedIs(const amqp::Blocked& blocked);
  void chooseLanesToGive();

  outbox::EventLog& log_;
  RelayOptions options_;
  Counters& counters_;
  const base::Clock& clock_;

  amqp::PublishChannel* channel_ = nullptr;
  bool blocked_ = false;    // by the broker
  bool confirmed_ = false;  // something, in this turn
  Suspicion suspicion_;
  Parking parking_;
  MainRoad main_;
  Prober prober_;

  // When to look, and when to write.
  PollPace pace_;
  IdleFlag idle_;
  outbox::Lanes cloggedAtLook_ = 0;
  Boot lastWritten_{0};
  int lanesToGive_ = 0;
  outbox::Cursor toGive_;  // with the next checkpoint
  bool finishing_ = false;
};

}  // namespace pillion::relay
