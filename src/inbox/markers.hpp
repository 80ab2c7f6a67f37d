#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>

#include "amqp/channel.hpp"
#include "base/clock.hpp"
#include "event/event_id.hpp"

namespace pillion::inbox {

/// Proves that a queue to which nothing is published any more has been worked off. A marker is sent
/// to its end; when it comes back, and nothing that came before it is open, there is nothing left.
/// The broker's own count would not do: it leaves out what another consumer was sent, and is 0 for
/// a queue that does not answer.
class Markers {
 public:
  using Boot = base::Clock::Boot;

  /// For a consumer that has not had one, or has waited long for it: whoever had the queue before
  /// may have taken it.
  std::optional<amqp::Message> next(const std::string& queue, std::uint64_t consumer, Boot now) {
    const auto [sent, isFirst] = sent_.try_emplace(consumer, now);
    if (!isFirst && now - sent->second < kAgain) return std::nullopt;
    sent->second = now;
    amqp::Message marker;
    marker.routingKey = queue;
    marker.type = "pillion.marker";
    marker.headers.emplace_back(kHeader, textOf(consumer));
    return marker;
  }
  /// Is it a marker, this instance's or another one's? It is no event.
  bool take(const amqp::Delivery& delivery) {
    if (!delivery.exchange.empty()) return false;
    const std::string* text = amqp::findHeader(delivery.message, kHeader);
    if (text == nullptr) return false;
    if (*text == textOf(delivery.consumer)) came_.insert(delivery.consumer);
    return true;
  }
  [[nodiscard]] bool cameBack(std::uint64_t consumer) const { return came_.contains(consumer); }

 private:
  static constexpr const char* kHeader = "pillion-marker";
  static constexpr std::chrono::seconds kAgain{5};

  [[nodiscard]] std::string textOf(std::uint64_t consumer) const {
    return instance_ + '.' + std::to_string(consumer);
  }

  std::string instance_ = makeEventId();
  std::map<std::uint64_t, Boot> sent_;
  std::set<std::uint64_t> came_;
};

}  // namespace pillion::inbox
