#include <pillion/dead_letters.hpp>

#include <algorithm>
#include <limits>
#include <memory>
#include <optional>
#include <pillion/error.hpp>

#include "amqp/broker_check.hpp"
#include "amqp/connection.hpp"
#include "amqp/dead_letter.hpp"
#include "amqp/topology.hpp"
#include "base/clock.hpp"
#include "base/failpoint.hpp"
#include "base/log_line.hpp"
#include "event/event_id.hpp"
#include "event/timestamp.hpp"
#include "event/topic_pattern.hpp"
#include "inbox/error_line.hpp"

namespace pillion {
namespace {

using inbox::errorLine;
using std::chrono::milliseconds;

/// What the queue held at the beginning comes at once, or somebody else has it.
constexpr milliseconds kNothingMore{2'000};

/// Since the last failure, or since it was made when that is not known.
std::optional<std::chrono::seconds> ageOf(const DeadLetter& letter, const amqp::Message& message) {
  auto at = fromRfc3339(letter.lastAt);
  if (!at) at = amqp::timeOfTimestamp(message.timestamp);
  if (!at) return std::nullopt;
  return std::chrono::duration_cast<std::chrono::seconds>(base::systemClock().wall() - *at);
}

bool matches(const DeadLetterFilter& filter, const DeadLetter& letter,
             const amqp::Message& message) {
  if (!filter.id.empty() && uuidFrom(filter.id).value_or(filter.id) != letter.id) return false;
  if (!filter.reason.empty() && filter.reason != letter.reason) return false;
  if (!filter.type.empty() && !matchesTopic(filter.type, letter.type)) return false;
  if (!filter.olderThan && !filter.newerThan) return true;
  const auto age = ageOf(letter, message);
  if (!age) return false;
  return (!filter.olderThan || *age > *filter.olderThan) &&
         (!filter.newerThan || *age < *filter.newerThan);
}

/// Publishes one letter after the other, each until its fate is known.
class Publisher {
 public:
  Publisher(const BrokerOptions& options, std::string role) : options_(options), role_(role) {}

  /// Empty: the broker has it. Else why it was refused, which says nothing of the next one.
  std::string publish(const std::string& exchange, const amqp::Message& message) {
    if (!connection_) {
      connection_ = std::make_unique<amqp::Connection>(options_, role_);
      connection_->selectConfirms(exchange);
    }
    try {
      if (amqp::publishAndWait(*connection_, message, options_.stallTimeout)) return "";
      return "takes no message; does it exist, or is it full?";
    } catch (const amqp::PublishersBlocked&) {
      connection_.reset();
      throw;
    } catch (const BrokerError& error) {
      connection_.reset();
      const bool about = amqp::isAboutMessage(error.replyCode(), error.what()) ||
                         dynamic_cast<const amqp::MessageUnsendable*>(&error) != nullptr;
      if (!about) throw;
      return std::string("does not take this one: ") + error.what();
    }
  }

 private:
  const BrokerOptions& options_;
  std::string role_;
  std::unique_ptr<amqp::Connection> connection_;
};

enum class Fate { Stays, Removed, Refused, NotMeant };
using Act = std::function<Fate(const DeadLetter&, const amqp::Delivery&)>;

/// One look through a dead-letter queue, at what it held at the beginning.
class Walk {
 public:
  Walk(const DeadLetterOptions& options, const DeadLetterFilter& filter)
      : filter_(filter),
        service_(options.queue),
        queue_(amqp::deadLetterQueueOf(options.queue)),
        connection_(options.broker, "dead letters of " + options.queue),
        copies_(options.broker, "dead letters of " + options.queue + ", renewed") {}

  /// `act` is called for those that are chosen, and says what becomes of them.
  DeadLetterCount run(const Act& act) {
    const auto held = connection_.messageCount(queue_);
    if (!held) throw ConfigError("queue '" + queue_ + "' does not exist; check service and vhost");
    count_.held = *held;
    if (*held == 0) return count_;
    // Not more than that comes, so that none of the copies does.
    constexpr std::uint32_t kMostPrefetch = std::numeric_limits<std::uint16_t>::max();
    consumer_ =
        connection_.consume(queue_, static_cast<std::uint16_t>(*held > kMostPrefetch ? 0U : *held));
    while (count_.seen < *held) {
      const auto incoming = connection_.receive(kNothingMore);
      if (!incoming) break;
      if (const auto* delivery = std::get_if<amqp::Delivery>(&*incoming)) look(*delivery, act);
      if (const auto* ended = std::get_if<amqp::ConsumerEnded>(&*incoming)) {
        amqp::throwEnded(*ended);  // a right is missing, say
      }
    }
    putBack(*held);
    connection_.close();
    return count_;
  }

 private:
  void look(const amqp::Delivery& delivery, const Act& act) {
    ++count_.seen;
    const DeadLetter letter = amqp::letterOf(delivery, service_);
    const bool isWanted = (filter_.limit == 0 || count_.chosen < filter_.limit) &&
                          matches(filter_, letter, delivery.message);
    const Fate fate = isWanted ? act(letter, delivery) : Fate::NotMeant;
    if (fate == Fate::Refused) ++count_.refused;
    if (fate == Fate::Stays || fate == Fate::Removed) ++count_.chosen;
    if (fate == Fate::Removed) {
      connection_.ack(delivery);
      ++removed_;
    } else {
      renew(letter, delivery);
    }
  }

  /// RabbitMQ counts how often a letter was given back, and a policy may set a limit to that, below
  /// the queue's own argument and not to be seen by AMQP. So one that was given back before is not
  /// given back again: a copy, of which nothing is counted yet, takes its place. From there on all
  /// of them, which keeps their order.
  void renew(const DeadLetter& letter, const amqp::Delivery& delivery) {
    if (amqp::timesReturned(delivery.message) == 0 && renewed_.empty()) return;
    if (!renews_ || !amqp::isWhole(delivery.message)) return;
    std::string refusal;
    try {
      refusal = copies_.publish("", amqp::renewed(letter, delivery.message, queue_));
    } catch (const BrokerError& error) {
      refusal = error.what();
    }
    if (refusal.empty()) {
      renewed_.push_back(delivery.tag);
      return;
    }
    renews_ = false;
    base::log.warn(
        "'{}' takes no copies of its letters ({}); they are given back, which RabbitMQ counts: "
        "should a policy set a delivery-limit, look at them no more than so many times",
        queue_, refusal);
  }

  /// What was not acked goes back to its place. The queue does that in its own time, and whoever
  /// looks next is to see them: so it is waited for, a little.
  void putBack(std::uint64_t held) {
    connection_.cancelConsumer(consumer_);
    for (const std::uint64_t tag : renewed_) connection_.ack(consumer_, tag);
    connection_.endConsumer(consumer_);
    const auto end = base::systemClock().boot() + kNothingMore;
    while (base::systemClock().boot() < end) {
      const auto ready = connection_.messageCount(queue_);
      if (!ready || *ready >= held - removed_) return;
      connection_.receive(milliseconds(20));
    }
  }

  const DeadLetterFilter& filter_;
  std::string service_;
  std::string queue_;
  amqp::Connection connection_;
  Publisher copies_;
  std::uint64_t consumer_ = 0;
  DeadLetterCount count_;
  std::uint64_t removed_ = 0;
  std::vector<std::uint64_t> renewed_;  // tags; acked at the end, when no more is sent
  bool renews_ = true;
};

DeadLetterCount walk(const DeadLetterOptions& options, const DeadLetterFilter& filter,
                     const Act& act) {
  amqp::requireValid(options.broker);
  if (options.queue.empty())
    throw ConfigError("dead letters need the name of the consumer's queue");
  return Walk(options, filter).run(act);
}

/// Where the consumer takes its events from today: the exchange in front of its partitions, or
/// (empty) the default exchange, by the name of its queue. Both may be there after a change of
/// `partitions`: then it is what somebody consumes from.
std::string entryOf(const DeadLetterOptions& options) {
  amqp::Connection look(options.broker, "redrive");
  amqp::ConsumerTopology topology;
  topology.queue = options.queue;
  topology.partitions = 1;
  const std::string partitions = topology.partitionExchange();
  const auto ofQueue = look.consumerCount(options.queue);
  if (!look.exchangeExists(partitions) || ofQueue.value_or(0) > 0) return "";
  if (!ofQueue) return partitions;
  for (; topology.generation <= amqp::kMostGenerations; ++topology.generation) {
    if (look.consumerCount(topology.partitionQueue(0)).value_or(0) > 0) return partitions;
  }
  throw ConfigError("there are a queue '" + options.queue + "' and an exchange '" + partitions +
                    "', and nobody consumes from the one or from a queue '" + options.queue +
                    ".p0': start the consumer, or delete what it does not use");
}

}  // namespace

DeadLetterCount visitDeadLetters(const DeadLetterOptions& options, const DeadLetterFilter& filter,
                                 const std::function<void(const DeadLetter&)>& visit) {
  return walk(options, filter, [&](const DeadLetter& letter, const amqp::Delivery&) {
    visit(letter);
    return Fate::Stays;
  });
}

DeadLetterCount redriveDeadLetters(const DeadLetterOptions& options,
                                   const DeadLetterFilter& filter) {
  amqp::requireValid(options.broker);
  const std::string exchange = options.queue.empty() ? "" : entryOf(options);
  const std::string where =
      exchange.empty() ? "queue '" + options.queue + "'" : "exchange '" + exchange + "'";
  Publisher publisher(options.broker, "redrive");
  return walk(options, filter, [&](const DeadLetter& letter, const amqp::Delivery& delivery) {
    if (amqp::findHeader(delivery.message, amqp::kBodyMissingHeader) != nullptr) {
      base::log.warn(
          "dead letter '{}' stays where it is: its data is larger than an event's may be",
          errorLine(letter.id));
      return Fate::NotMeant;
    }
    if (options.dryRun) return Fate::Stays;
    auto copy = amqp::redriven(letter, delivery.message, options.outsideWindow);
    copy.routingKey = options.queue;  // partitions go by the lane in its headers
    const std::string refusal = publisher.publish(exchange, copy);
    if (!refusal.empty()) {
      base::log.error("dead letter '{}' stays where it is: {} {}", errorLine(letter.id), where,
                      errorLine(refusal));
      return Fate::Refused;
    }
    PILLION_FAILPOINT("dead.redriven");
    return Fate::Removed;
  });
}

DeadLetterCount discardDeadLetters(const DeadLetterOptions& options,
                                   const DeadLetterFilter& filter) {
  return walk(options, filter, [&](const DeadLetter&, const amqp::Delivery&) {
    return options.dryRun ? Fate::Stays : Fate::Removed;
  });
}

}  // namespace pillion
