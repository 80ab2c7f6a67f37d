#pragma once

#include <doctest/doctest.h>

#include <array>
#include <deque>
#include <functional>
#include <optional>
#include <pillion/error.hpp>
#include <string>
#include <vector>

#include "amqp/channel.hpp"
#include "support/manual_clock.hpp"

namespace pillion::test {

/// Close: the broker closes the channel over it. Hang: neither it nor anything behind it is
/// confirmed on this channel.
enum class Answer { Route, Return, Nack, Silence, Close, Hang };

/// What happens to messages, on whatever channel they come.
struct FakeBroker {
  std::function<Answer(const amqp::Message&)> answer = [](const amqp::Message&) {
    return Answer::Route;
  };
  std::vector<std::string> sent;    // message ids, each time they were published
  std::vector<std::string> routed;  // those that a queue has
  int closeCode = 406;
  std::string closeText = "the broker does not want it";
};

/// A connection to it, with both roads. While it has nothing to say, waiting moves the clock.
class FakeChannel : public amqp::PublishChannel {
 public:
  FakeChannel(FakeBroker& broker, ManualClock& clock) : broker_(&broker), clock_(&clock) {}

  std::uint64_t publish(amqp::Road road, const amqp::Message& message) override {
    requireOpen();
    State& state = stateOf(road);
    REQUIRE(state.open);
    broker_->sent.push_back(message.messageId);
    const std::uint64_t tag = ++state.tag;
    if (state.closed) return tag;  // as a closed channel takes it: nobody sees it
    const Answer answer = broker_->answer(message);
    state.hangs = state.hangs || answer == Answer::Hang;
    const bool heard = !state.hangs;
    switch (answer) {
      case Answer::Route:
        broker_->routed.push_back(message.messageId);
        if (heard) say(amqp::Confirm{tag, false, true, road});
        break;
      case Answer::Return:
        if (heard) say(amqp::Returned{message.messageId, message.attributes->outboxId, road});
        if (heard) say(amqp::Confirm{tag, false, true, road});
        break;
      case Answer::Nack:
        if (heard) say(amqp::Confirm{tag, false, false, road});
        break;
      case Answer::Close:
        state.closed = true;
        say(amqp::ChannelClosed{road, broker_->closeCode, broker_->closeText, true});
        break;
      case Answer::Silence:
      case Answer::Hang:
        break;
    }
    return tag;
  }

  void beginBurst() override { requireOpen(); }
  void endBurst() override { requireOpen(); }
  void reopen(amqp::Road road) override {
    if (reopenFails) lose();
    requireOpen();
    ++reopened;
    stateOf(road) = State{.open = true};
    // What was said of the road before is not heard any more.
    std::erase_if(incoming_, [&](const amqp::Incoming& incoming) {
      const auto* confirm = std::get_if<amqp::Confirm>(&incoming);
      const auto* returned = std::get_if<amqp::Returned>(&incoming);
      return (confirm != nullptr && confirm->road == road) ||
             (returned != nullptr && returned->road == road);
    });
  }

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

  /// From now on every call throws, and what was not received yet never will be.
  void lose(int replyCode = 0) { lost_.emplace("the channel is lost", replyCode); }
  [[nodiscard]] std::uint64_t lastTag(amqp::Road road = amqp::Road::Main) {
    return stateOf(road).tag;
  }
  int reopened = 0;
  bool reopenFails = false;  // the connection ends in the middle of it

 private:
  struct State {
    std::uint64_t tag = 0;
    bool open = false;
    bool closed = false;
    bool hangs = false;
  };

  State& stateOf(amqp::Road road) { return states_.at(road == amqp::Road::Main ? 0 : 1); }
  void requireOpen() const {
    if (lost_) throw *lost_;
  }

  FakeBroker* broker_;
  ManualClock* clock_;
  std::deque<amqp::Incoming> incoming_;
  std::array<State, 2> states_{State{.open = true}, State{}};
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
