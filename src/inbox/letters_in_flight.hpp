#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "amqp/channel.hpp"

namespace pillion::inbox {

/// A dead letter that was sent.
struct SentLetter {
  std::int64_t seq = 0;
  std::string name = {};  // for the log
  std::string reason = {};
  std::string error = {};
  int attempts = 0;
};

/// Dead letters on one connection, and what the broker has said of them. No I/O.
class LettersInFlight {
 public:
  void add(std::uint64_t tag, SentLetter letter) { inFlight_.emplace(tag, std::move(letter)); }

  /// Of which letter is not said, and copies of one event look the same. But all go to one queue,
  /// and it is not there: none that is still in flight can be relied on.
  void noteReturn() {
    for (const auto& [tag, letter] : inFlight_) returnedUpTo_ = tag;
    isMissing_ = true;
  }

  void settle(const amqp::Confirm& confirm) {
    const auto last = inFlight_.upper_bound(confirm.tag);
    auto at = confirm.multiple ? inFlight_.begin() : inFlight_.find(confirm.tag);
    while (at != last && at != inFlight_.end()) {
      if (confirm.positive && at->first > returnedUpTo_) {
        confirmed_.push_back(std::move(at->second));
      } else {
        refused_.push_back(at->second.seq);
      }
      at = inFlight_.erase(at);
    }
  }

  /// The connection is gone: what became of those in flight is not known. The next one counts its
  /// tags anew. Returns which they are; they count as refused.
  std::vector<std::int64_t> lose() {
    std::vector<std::int64_t> lost;
    for (const auto& [tag, letter] : inFlight_) lost.push_back(letter.seq);
    refused_.insert(refused_.end(), lost.begin(), lost.end());
    inFlight_.clear();
    returnedUpTo_ = 0;
    return lost;
  }

  [[nodiscard]] bool empty() const { return inFlight_.empty(); }
  [[nodiscard]] std::size_t size() const { return inFlight_.size(); }
  /// One was returned since this was asked last.
  bool takeMissing() { return std::exchange(isMissing_, false); }

  /// In flight, or not taken out of here yet.
  [[nodiscard]] std::vector<std::int64_t> all() const {
    std::vector<std::int64_t> numbers = refused_;
    for (const auto& letter : confirmed_) numbers.push_back(letter.seq);
    for (const auto& [tag, letter] : inFlight_) numbers.push_back(letter.seq);
    return numbers;
  }
  [[nodiscard]] const std::vector<SentLetter>& confirmed() const { return confirmed_; }
  void forgetConfirmed() { confirmed_.clear(); }
  [[nodiscard]] bool anyRefused() const { return !refused_.empty(); }
  std::vector<std::int64_t> takeRefused() { return std::exchange(refused_, {}); }

 private:
  std::map<std::uint64_t, SentLetter> inFlight_;  // by tag
  std::uint64_t returnedUpTo_ = 0;                // tag; these may have been returned
  bool isMissing_ = false;
  std::vector<SentLetter> confirmed_;
  std::vector<std::int64_t> refused_;
};

}  // namespace pillion::inbox
