#include "stage.hpp"

#include <algorithm>
#include <cstdio>

#include "amqp/connection.hpp"
#include "support/eventually.hpp"

namespace pillion::bench {
namespace {

int nextNumber() {
  static int number = 0;
  return ++number;
}

/// RabbitMQ's name for the process that leads a quorum queue of vhost "/".
std::string leaderOf(const std::string& queue) {
  return "'%2F_" + queue + "'";
}

}  // namespace

Stage::Stage(BenchServers& servers)
    : servers_(servers),
      database_(servers.createDatabase()),
      exchange_("bench.stage-" + std::to_string(nextNumber())) {
  amqp::Connection(broker(), "bench").declareTopicExchange(exchange_);
}

Stage::~Stage() {
  try {
    resumeLeaders();
    while (!queues_.empty()) removeQueue(std::string(queues_.back()));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "  a queue was left behind: %s\n", error.what());
  }
}

BrokerOptions Stage::broker() const {
  BrokerOptions options = servers_.broker();
  options.exchange = exchange_;
  return options;
}

std::string Stage::addQueue(const std::string& pattern, QueueKind kind) {
  amqp::QueueSpec queue{.name = "stage-" + std::to_string(nextNumber())};
  if (kind == QueueKind::Quorum) {
    queue.textArguments = {{"x-queue-type", "quorum"}};
  } else {
    queue.textArguments = {{"x-overflow", "reject-publish"}};
    queue.numberArguments = {{"x-max-length", 5}};
  }
  amqp::Connection connection(broker(), "bench");
  connection.declareQueue(queue);
  connection.bindQueue(queue.name, exchange_, pattern);
  queues_.push_back(queue.name);
  return queue.name;
}

void Stage::removeQueue(const std::string& name) {
  std::erase(queues_, name);
  servers_.rabbit.deleteQueue(name);
}

void Stage::suspendLeader(const std::string& name) {
  servers_.rabbit.eval("sys:suspend(" + leaderOf(name) + ")");
  suspended_.push_back(name);
}

void Stage::resumeLeaders() {
  for (const auto& name : suspended_) servers_.rabbit.eval("sys:resume(" + leaderOf(name) + ")");
  suspended_.clear();
}

std::unique_ptr<QueueDepth> Stage::depthOf(const std::string& name) const {
  return std::make_unique<QueueDepth>("127.0.0.1", servers_.rabbit.port(), name);
}

support::Process Stage::startRelay(const std::vector<std::string>& arguments) const {
  return servers_.startRelay(database_, exchange_, exchange_, arguments);
}

bool awaitWarning(const support::Process& relay, std::chrono::milliseconds limit) {
  return support::eventually(limit, [&] {
    const std::string said = relay.output();
    return said.find("[warning]") != std::string::npos || said.find("[error]") != std::string::npos;
  });
}

void endRelay(support::Process& relay) {
  const int status = relay.terminate(std::chrono::seconds(30));
  if (status != 0) std::fprintf(stderr, "  the relay ended with status %d\n", status);
}

}  // namespace pillion::bench
