#pragma once

#include <pillion/consumer.hpp>
#include <string>
#include <utility>
#include <vector>

namespace pillion::inbox {

using Handler = EventConsumer::Handler;

/// Which handler an event type belongs to: the exact type, else the first pattern that matches.
class HandlerTable {
 public:
  /// `usesTransaction`: not so for one whose effects are elsewhere.
  void add(std::string pattern, Handler handler, bool usesTransaction = true) {
    if (!usesTransaction) outside_.push_back(handlers_.size());
    handlers_.emplace_back(std::move(pattern), std::move(handler));
  }

  /// The first pattern that no key meets which any of these patterns brings; empty when there is
  /// none.
  [[nodiscard]] std::string unreachable(const std::vector<std::string>& bound) const;

  [[nodiscard]] const Handler* find(const std::string& type) const;
  /// False for handlers whose effects are elsewhere: they may wait for what others have locked.
  [[nodiscard]] bool usesTransaction(const std::string& type) const;

 private:
  std::vector<std::pair<std::string, Handler>> handlers_;
  std::vector<std::size_t> outside_;  // of these, the ones without a transaction
};

}  // namespace pillion::inbox
