#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <pillion/options.hpp>
#include <set>
#include <string>

#include "amqp/connection.hpp"
#include "base/clock.hpp"
#include "base/reconnect.hpp"
#include "inbox/delivery_queue.hpp"

namespace pillion::inbox {

using QueueNames = std::set<std::string>;

/// The queues that are consumed on one connection, each by a consumer of its own that begins, fails
/// and ends without the others. A queue is let go of at a boundary: nothing of it is begun any
/// more, what workers have in hand is finished and acked, and then its consumer ends, which gives
/// back the rest in its order.
class QueueConsumers {
 public:
  QueueConsumers(std::string consumer, const BrokerOptions& options,
                 const PrefetchPlan::Limits& prefetch, DeliveryQueue& queue);

  /// Nothing is consumed on a new one.
  void connected(amqp::Connection& connection);
  void disconnected();

  /// From the next consumer on.
  void limit(const PrefetchPlan::Limits& prefetch) {
    prefetch_ = prefetch;
    plans_.clear();
  }

  /// Begins to consume what is wanted, and lets go of the rest; to be called again and again. What
  /// is to have another prefetch is let go of, too, and taken up again.
  void follow(const QueueNames& wanted);
  /// Are these, of the open deliveries of a queue, so many that `follow` should look at once?
  [[nodiscard]] bool isTooMuch(std::size_t bytes) {
    if (bytes <= prefetch_.bytes) return false;
    nextReconsidering_ = base::Clock::Boot{0};
    return true;
  }
  void sendAcks();
  void opened(const amqp::ConsumerOpened& opened);
  /// The queue was deleted, or the like.
  void cancelled(const amqp::ConsumerCancelled& cancelled);
  void ended(const amqp::ConsumerEnded& ended);

  /// Those that the broker may still take for consumed from here.
  [[nodiscard]] QueueNames consumed() const;
  /// Of one that the broker has confirmed, and that is not let go of.
  [[nodiscard]] std::optional<std::uint64_t> consumerOf(const std::string& queue) const;
  /// Is one of them still to be confirmed by the broker?
  [[nodiscard]] bool anyOpening() const;
  /// Was one refused or cancelled since this was asked? It may have to be declared again.
  [[nodiscard]] bool takeMissing() { return std::exchange(isMissing_, false); }

 private:
  struct One {
    std::uint64_t id = 0;
    base::Clock::Boot askedAt{0};
    bool isOpen = false;
    bool isSlow = false;  // to be opened, and that was said
    bool isEnding = false;
    std::optional<base::Clock::Boot> letGoAt = {};
  };
  /// The prefetch outlives the consumer, and the connection.
  using Plans = std::map<std::string, PrefetchPlan>;
  struct Trouble {
    base::Reconnect outage;
    base::Clock::Boot notBefore{0};
  };

  void open(const std::string& queue);
  void letGo(One& one);
  void sayWhatIsSlow();
  void reconsiderPrefetch();
  void failed(const std::string& queue, const Error& error);

  std::string consumer_;
  BrokerOptions options_;
  PrefetchPlan::Limits prefetch_;
  DeliveryQueue& queue_;
  amqp::Connection* connection_ = nullptr;
  std::map<std::string, One> byQueue_;
  Plans plans_;
  base::Clock::Boot nextReconsidering_{0};
  std::map<std::string, Trouble> troubles_;
  bool isMissing_ = false;
};

}  // namespace pillion::inbox
