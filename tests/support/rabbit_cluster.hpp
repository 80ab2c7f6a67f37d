#pragma once

#include <array>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "support/rabbit_server.hpp"

namespace pillion::support {

// Three RabbitMQ nodes on 127.0.0.1 that form a cluster, below `directory`. They share an epmd and
// a cookie and are otherwise as private as a RabbitServer, which each of them is. A quorum queue
// has a replica on each.
class RabbitCluster {
 public:
  static constexpr int kNodes = 3;

  explicit RabbitCluster(std::filesystem::path directory);

  RabbitServer& node(int number) { return *nodes_.at(static_cast<std::size_t>(number)); }
  const RabbitServer& node(int number) const {
    return *nodes_.at(static_cast<std::size_t>(number));
  }
  // As guest, with these nodes as hosts, in this order.
  std::string url(const std::vector<int>& order) const;

  // Starts the nodes that are down and waits until no replica of a queue lags behind the loss of
  // another node any more.
  void makeWhole();

  // The node where the leader of a quorum queue is, as a majority knows it; -1 when it has none.
  int leaderOf(const std::string& queue) const;
  // Where the queues are whose names begin so and that are not replicated, such as exclusive ones;
  // -1 when there are none.
  int nodeOf(const std::string& prefix) const;
  // Where the channel is that consumes from the queue; -1 when there is none.
  int consumerOf(const std::string& queue) const;

 private:
  const RabbitServer& anyRunning() const;
  int numberOf(const std::string& name) const;

  std::array<std::unique_ptr<RabbitServer>, kNodes> nodes_;
};

}  // namespace pillion::support
