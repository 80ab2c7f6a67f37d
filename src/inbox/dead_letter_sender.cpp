#include "inbox/dead_letter_sender.hpp"

#include <poll.h>

#include <algorithm>
#include <pillion/error.hpp>
#include <utility>

#include "amqp/dead_letter.hpp"
#include "amqp/topology.hpp"
#include "base/failpoint.hpp"
#include "base/log_line.hpp"
#include "inbox/error_line.hpp"
#include "inbox/stored_job.hpp"

namespace pillion::inbox {
namespace {

using std::chrono::milliseconds;

/// What another instance has left is found after this.
constexpr milliseconds kLook{1'000};
constexpr std::size_t kMostLetters = 100;
constexpr std::size_t kMostBytes = 8U << 20;
/// When letters were not taken.
constexpr milliseconds kAgain{500};
constexpr milliseconds kAgainMost{30'000};
constexpr milliseconds kSlice{100};  // in which a stop is noticed
/// When the consumer stops: for letters that were just written, and for confirms on their way.
constexpr milliseconds kLastLetters{1'000};
/// A connection on which nothing was heard for so many stall timeouts is of no use.
constexpr int kMostStalls = 10;

}  // namespace

DeadLetterSender::DeadLetterSender(const ConsumerOptions& options, std::string consumer,
                                   base::WakeEvent& wake,
                                   std::shared_ptr<SharedReconnect> reconnect)
    : options_(options),
      consumer_(std::move(consumer)),
      queue_(amqp::deadLetterQueueOf(consumer_)),
      schema_(postgres::schemaOf(options.database)),
      wake_(wake),
      reconnect_(std::move(reconnect)),
      queueOutage_("consumer '" + consumer_ + "', dead letters", kAgain, kAgainMost),
      atOnce_(kMostLetters) {}

void DeadLetterSender::serve(const std::stop_token& stop) {
  {
    const std::stop_callback wakeUp(stop, [this] { wake_.signal(); });
    while (!stop.stop_requested()) pause(turn(stop), stop);
    sendLast(stop);
    if (broker_) broker_->close();
  }
  ended_ = true;
}

/// What the workers wrote last is not left to another instance, which there may not be.
void DeadLetterSender::sendLast(const std::stop_token& stop) {
  const auto end = base::systemClock().boot() + kLastLetters;
  while (base::systemClock().boot() < end && turn(stop) == Wait(0)) continue;
}

DeadLetterSender::Wait DeadLetterSender::turn(const std::stop_token& stop) {
  try {
    return work(stop);
  } catch (const BrokerError& error) {
    lost(error);
    return Wait(0);
  } catch (const Error& error) {
    database_.reset();
    if (error.retryable()) {
      return reconnect_->failed(this, error);
    }
    queueOutage_.failed(error);
  } catch (const std::exception& error) {
    base::log.error("consumer '{}', dead letters begin again after: {}", consumer_, error.what());
  }
  const Wait pause = queueOutage_.pause();
  notBefore_ = base::systemClock().boot() + pause;
  return pause;
}

DeadLetterSender::Wait DeadLetterSender::work(const std::stop_token& stop) {
  record();
  if (const auto left = notBefore_ - base::systemClock().boot();
      letters_.empty() && left.count() > 0) {
    return std::chrono::ceil<Wait>(left);
  }
  if (letters_.empty()) {
    std::optional<Wait> due;
    own(stop, "looking for dead letters",
        [&](auto& tx) { due = nextDeadIn(tx, schema_, consumer_); });
    if (!due || *due > Wait(0)) {
      if (broker_) broker_->close();  // in good order: nothing is wrong with that host
      broker_.reset();
      return std::min(due.value_or(kLook), kLook);
    }
    openBroker();
    if (!take(stop)) return kSlice;
  }
  await(stop);
  record();
  return Wait(0);
}

template <typename Work>
void DeadLetterSender::own(const std::stop_token& stop, const char* doing, Work work) {
  if (!database_) {
    database_ = postgres::connect(options_.database, "dead letters of " + consumer_,
                                  {stop, postgres::kNothingToFinish});
  }
  postgres::guarded(*database_, doing, [&] {
    pqxx::work tx{*database_};
    tx.exec(postgres::kOwnTransaction);
    work(tx);
    tx.commit();
  });
  reconnect_->works(this);
}

void DeadLetterSender::openBroker() {
  if (broker_) return;
  auto fresh = std::make_unique<amqp::Connection>(options_.broker, "dead letters of " + consumer_);
  if (isMissing_ && options_.broker.declareTopology) {
    amqp::declareDeadLetterQueue(*fresh, queue_);
  }
  isMissing_ = false;
  fresh->selectConfirms("");
  broker_ = std::move(fresh);
  blocked_ = false;
}

/// One letter that PostgreSQL does not let go must hold up no other.
bool DeadLetterSender::take(const std::stop_token& stop) {
  std::vector<DeadLetterRow> rows;
  try {
    own(stop, "taking dead letters",
        [&](auto& tx) { rows = takeDead(tx, schema_, consumer_, atOnce_, kMostBytes); });
  } catch (const Error& error) {
    if (error.retryable()) throw;
    untaken(error, stop);
    return false;
  }
  PILLION_FAILPOINT("letter.taken");
  send(rows);
  return !letters_.empty();
}

void DeadLetterSender::untaken(const Error& error, const std::stop_token& stop) {
  if (std::exchange(atOnce_, 1) > 1) return;
  std::optional<std::int64_t> seq;
  own(stop, "postponing a dead letter",
      [&](auto& tx) { seq = postponeFirstDead(tx, schema_, consumer_, kAgainMost); });
  if (dynamic_cast<const DatabaseError*>(&error) == nullptr) return queueOutage_.failed(error);
  if (seq) tellStuck(*seq, error);
}

void DeadLetterSender::tellStuck(std::int64_t seq, const Error& error) {
  if (!told_.mayTell(std::to_string(seq))) return;
  base::log.error("consumer '{}': row {} of inbox_dead cannot be sent: {}", consumer_, seq,
                  error.what());
}

void DeadLetterSender::send(const std::vector<DeadLetterRow>& rows) {
  heard_ = base::systemClock().boot();
  for (const DeadLetterRow& row : rows) {
    // One that the broker does not read would be a copy more when it reads again.
    while (const auto incoming = broker_->receive(milliseconds(0))) handle(*incoming);
    if (blocked_) {
      postponed_[kLook].push_back(row.seq);
      continue;
    }
    std::optional<Job> job;
    try {
      job = jobFromStored(row.message);
    } catch (const Error& error) {
      postponed_[kAgainMost].push_back(row.seq);
      tellStuck(row.seq, error);
      continue;
    }
    publish(row, *job);
  }
}

void DeadLetterSender::publish(const DeadLetterRow& row, const Job& job) {
  const auto copy = amqp::deadLetter(job.delivery,
                                     {.reason = row.reason,
                                      .error = row.error,
                                      .attempts = row.attempts,
                                      .firstAt = row.firstFailedAt,
                                      .lastAt = row.lastFailedAt},
                                     queue_);
  const auto read = amqp::identityOf(job.delivery.message);
  const auto* event = std::get_if<amqp::Identity>(&read);
  const std::string name = event != nullptr && row.attempts > 0 ? "event " + event->id
                                                                : amqp::nameOf(job.delivery, event);
  const SentLetter letter{row.seq, name, row.reason, row.error, row.attempts};
  try {
    letters_.add(broker_->publish(copy), letter);
  } catch (const BrokerError&) {
    letters_.add(~std::uint64_t{0}, letter);
    throw;
  }
}

void DeadLetterSender::await(const std::stop_token& stop) {
  const auto& clock = base::systemClock();
  auto nextLease = clock.boot() + kLetterLease / 3;
  auto end = base::Clock::Boot::max();
  bool told = false;
  while (!letters_.empty()) {
    const auto now = clock.boot();
    if (stop.stop_requested()) end = std::min<base::Clock::Boot>(end, now + kLastLetters);
    if (now >= end) return;
    if (const auto incoming = broker_->receive(kSlice)) handle(*incoming);
    if (blocked_) heard_ = now;
    if (!told && now - heard_ > options_.broker.stallTimeout) {
      told = true;
      queueOutage_.failed(BrokerError("RabbitMQ gave no confirm within " +
                                      std::to_string(options_.broker.stallTimeout.count()) +
                                      " ms"));
    }
    if (now - heard_ > kMostStalls * options_.broker.stallTimeout) {
      throw BrokerError("RabbitMQ gives no confirms");
    }
    if (now < nextLease) continue;
    nextLease = now + kLetterLease / 3;
    keepLease();
  }
  PILLION_FAILPOINT("letter.confirmed");
  judge();
}

/// Without it another instance sends a copy, which is no more than a pity.
void DeadLetterSender::keepLease() {
  try {
    own({}, "keeping dead letters",
        [&](auto& tx) { postponeDead(tx, schema_, letters_.all(), kLetterLease); });
  } catch (const Error&) {
    database_.reset();
  }
}

void DeadLetterSender::handle(const amqp::Incoming& incoming) {
  if (const auto* blocked = std::get_if<amqp::Blocked>(&incoming)) {
    blocked_ = blocked->now;
    if (!blocked_) return;
    queueOutage_.failed(
        amqp::PublishersBlocked("RabbitMQ blocks publishers (" + blocked->reason + ")"));
    return;
  }
  if (std::holds_alternative<amqp::Returned>(incoming)) letters_.noteReturn();
  const auto* confirm = std::get_if<amqp::Confirm>(&incoming);
  if (confirm == nullptr) return;
  heard_ = base::systemClock().boot();
  letters_.settle(*confirm);
}

void DeadLetterSender::judge() {
  if (!letters_.anyRefused()) {
    queueOutage_.works();
    hasDeclared_ = false;
    atOnce_ = std::min(kMostLetters, 2 * atOnce_);
    return;
  }
  // Another channel: RabbitMQ 3.10 tells none that a queue that was full has room again, when that
  // comes of its policy. A queue that somebody has deleted is declared on it, before anybody is
  // told.
  broker_.reset();
  letters_.lose();
  isMissing_ = letters_.takeMissing();
  if (isMissing_ && options_.broker.declareTopology && !std::exchange(hasDeclared_, true)) {
    return postponeRefused(Wait(0));
  }
  queueOutage_.failed(BrokerError("the dead-letter queue '" + queue_ +
                                  "' takes no message; does it exist, or is it full?"));
  const Wait pause = queueOutage_.pause();
  notBefore_ = base::systemClock().boot() + pause;
  postponeRefused(pause);
}

void DeadLetterSender::postponeRefused(Wait wait) {
  auto& postponed = postponed_[wait];
  for (const std::int64_t seq : letters_.takeRefused()) postponed.push_back(seq);
}

/// With the connection it is lost what became of the letters. When it was closed over one of them,
/// they are sent one by one, until that one is known.
void DeadLetterSender::lost(const BrokerError& error) {
  const bool aboutLetter =
      !letters_.empty() && (amqp::isAboutMessage(error.replyCode(), error.what()) ||
                            dynamic_cast<const amqp::MessageUnsendable*>(&error) != nullptr);
  broker_.reset();
  const auto letters = letters_.lose();
  if (aboutLetter) {
    atOnce_ = 1;
    const bool alone = letters.size() == 1;
    if (alone) tellStuck(letters.front(), error);
    return postponeRefused(alone ? kAgainMost : Wait(0));
  }
  queueOutage_.failed(error);
  const Wait pause = queueOutage_.pause();
  notBefore_ = base::systemClock().boot() + pause;
  postponeRefused(pause);
}

void DeadLetterSender::record() {
  if (letters_.confirmed().empty() && postponed_.empty()) return;
  std::vector<std::int64_t> confirmed;
  for (const SentLetter& letter : letters_.confirmed()) confirmed.push_back(letter.seq);
  own({}, "removing dead letters", [&](auto& tx) {
    if (!confirmed.empty()) deleteDead(tx, schema_, confirmed);
    for (const auto& [wait, letters] : postponed_) postponeDead(tx, schema_, letters, wait);
  });
  tell();
  letters_.forgetConfirmed();
  postponed_.clear();
}

void DeadLetterSender::tell() const {
  for (const SentLetter& letter : letters_.confirmed()) {
    if (letter.attempts > 0) {
      base::log.error("consumer '{}': {} went to the dead-letter queue, {} after {} attempts",
                      consumer_, letter.name, letter.reason, letter.attempts);
    } else {
      base::log.error("consumer '{}': {} went to the dead-letter queue, {}: {}", consumer_,
                      letter.name, letter.reason, letter.error);
    }
  }
}

void DeadLetterSender::pause(Wait limit, const std::stop_token& stop) {
  if (limit <= Wait(0) || stop.stop_requested()) return;
  pollfd wake{wake_.fd(), POLLIN, 0};
  ::poll(&wake, 1, static_cast<int>(limit.count()));
  wake_.take();
}

}  // namespace pillion::inbox
