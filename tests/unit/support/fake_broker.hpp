#pragma once

#include <doctest/doctest.h>

#include <deque>
#include <functional>
#include <optional>
#include <pillion/error.hpp>
#include <string>
#include <vector>

#include "amqp/channel.hpp"
#include "support/manual_clock.hpp"

namespace pillion::test {

enum class Answer { Route, Return, Nack, Silence };

/// What happens to messages, on whatever channel they come.
struct FakeBroker {
  std::function<Answer(const amqp::Message&)> answer = [](const amqp::Message&) {
    return Answer::Route;
  };
  std::vector<std::string> sent;    // message ids, each time they were published
  std::vector<std::string> routed;  // those that a queue has
};

/// A channel to it. While it has nothing to say, waiting moves the clock.
class FakeChannel : public amqp::PublishChannel {
 public:
  FakeChannel(FakeBroker& broker, ManualClock& clock) : broker_(&broker), clock_(&clock) {}

  std::uint64_t publish(const amqp::Message& message) override {
    requireOpen();
    broker_->sent.push_back(message.messageId);
    const std::uint64_t tag = ++tag_;
    switch (broker_->answer(message)) {
      case Answer::Route:
        broker_->routed.push_back(message.messageId);
        say(amqp::Confirm{tag, false, true});
        break;
      case Answer::Return:
        say(amqp::Returned{message.messageId, 312, "NO_ROUTE"});
        say(amqp::Confirm{tag, false, true});
        break;
      case Answer::Nack:
        say(amqp::Confirm{tag, false, false});
        break;
      case Answer::Silence:
        break;
    }
    return tag;
  }

  void beginBurst() override { requireOpen(); }
  void endBurst() override { requireOpen(); }

  std::optional<amqp::Incoming> receive(std::chrono::microseconds wait) override {
    requireOpen();
    if (incoming_.empty()) {
      clock_->advance(wait);
      return std::nullopt;
    }
    amqp::Incoming next = std::move(incoming_.front());
    incoming_.pop_front();
    return next;
  }

  void say(amqp::Incoming incoming) { incoming_.push_back(std::move(incoming)); }

  /// From now on every call throws, and what was not received yet never will be. With a code: the
  /// broker closed it.
  void lose(int replyCode = 0) { lost_.emplace("the channel is lost", replyCode); }
  [[nodiscard]] std::uint64_t lastTag() const { return tag_; }

 private:
  void requireOpen() const {
    if (lost_) throw *lost_;
  }

  FakeBroker* broker_;
  ManualClock* clock_;
  std::deque<amqp::Incoming> incoming_;
  std::uint64_t tag_ = 0;
  std::optional<BrokerError> lost_;
};

}  // namespace pillion::test

template <>
struct doctest::StringMaker<std::vector<std::string>> {
  static String convert(const std::vector<std::string>& texts) {
    std::string joined;
    for (const std::string& text : texts) joined += (joined.empty() ? "" : " ") + text;
    return joined.c_str();
  }
};
