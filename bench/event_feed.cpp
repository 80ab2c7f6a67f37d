#include "event_feed.hpp"

#include <algorithm>
#include <cstdio>
#include <functional>
#include <set>
#include <stdexcept>

namespace pillion::bench {
namespace {

constexpr std::chrono::milliseconds kNoConfirm{60'000};
/// Published and not confirmed, at most.
constexpr std::size_t kMostOnTheirWay = 1'000;
constexpr std::size_t kMostBytesOnTheirWay = 32U << 20;

using Outstanding = std::set<std::uint64_t>;

void take(Outstanding& outstanding, const amqp::Confirm& confirm) {
  if (!confirm.positive) throw std::runtime_error("the broker refused a message");
  if (!confirm.multiple) {
    outstanding.erase(confirm.tag);
    return;
  }
  outstanding.erase(outstanding.begin(), outstanding.upper_bound(confirm.tag));
}

/// False when the broker said nothing in the time.
bool settle(amqp::Connection& connection, Outstanding& outstanding,
            std::chrono::milliseconds wait) {
  const auto incoming = connection.receive(wait);
  if (!incoming) return false;
  if (std::holds_alternative<amqp::Returned>(*incoming)) {
    throw std::runtime_error("the broker returned a message: is the queue bound?");
  }
  if (const auto* word = std::get_if<amqp::Confirm>(&*incoming)) take(outstanding, *word);
  return true;
}

}  // namespace

std::string idOf(long run, long number) {
  static const auto made = std::chrono::duration_cast<std::chrono::milliseconds>(
                               std::chrono::system_clock::now().time_since_epoch())
                               .count();
  char id[64];
  std::snprintf(id, sizeof id, "%08llx-%04llx-7000-8%03lx-%012lx",
                static_cast<unsigned long long>(made >> 16),
                static_cast<unsigned long long>(made & 0xFFFF), static_cast<unsigned long>(run),
                static_cast<unsigned long>(number));
  return id;
}

int laneOf(const std::string& key) {
  return static_cast<int>(std::hash<std::string>()(key) % amqp::kLanes);
}

amqp::Message messageOf(long run, long number, std::size_t bytes) {
  amqp::Message message;
  message.routingKey = message.type = "bench.created";
  message.messageId = idOf(run, number);
  message.appId = "bench";
  message.contentType = "application/json";
  message.body = payload(bytes);
  message.attributes.emplace();
  message.attributes->time = "2026-01-31T23:59:59.123456Z";
  message.attributes->key = std::to_string(number % kKeys);
  message.attributes->lane = laneOf(message.attributes->key);
  return message;
}

void feed(const BrokerOptions& broker, long run, long events, std::size_t bytes) {
  amqp::Connection connection(broker, "bench filler");
  connection.selectConfirms(broker.exchange);
  const std::size_t most =
      std::clamp<std::size_t>(kMostBytesOnTheirWay / bytes, 1, kMostOnTheirWay);
  Outstanding outstanding;
  const auto await = [&] {
    if (!settle(connection, outstanding, kNoConfirm)) {
      throw std::runtime_error("the broker confirms no more messages");
    }
  };
  for (long n = 0; n < events; ++n) {
    outstanding.insert(connection.publish(messageOf(run, n, bytes)));
    while (settle(connection, outstanding, std::chrono::milliseconds(0))) {
    }
    while (outstanding.size() >= most) await();
  }
  while (!outstanding.empty()) await();
}

}  // namespace pillion::bench
