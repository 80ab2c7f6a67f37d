#include "support/rabbit_cluster.hpp"

#include <algorithm>
#include <future>
#include <stdexcept>

#include "support/eventually.hpp"

namespace pillion::support {
namespace {

std::string nameOf(int number) {
  return "pillion" + std::to_string(number);
}

// The first founds the cluster and the others join it. Nobody lists a node that starts later: from
// RabbitMQ 4.0 on, all that are listed are waited for.
std::string clusterConfig(int number) {
  std::string config = "cluster_formation.peer_discovery_backend = classic_config\n";
  for (int listed = 0; listed <= number; listed += std::max(number, 1)) {
    config += "cluster_formation.classic_config.nodes." + std::to_string(listed + 1) + " = " +
              nameOf(listed) + "@localhost\n";
  }
  return config;
}

// Erlang's expression for the queue `Q`, in front of what is asked of it.
std::string with(const std::string& queue, const std::string& question) {
  return "case rabbit_amqqueue:lookup(rabbit_misc:r(<<\"/\">>, queue, <<\"" + queue +
         "\">>)) of {ok, Q} -> " + question + "; _ -> none end";
}

// Whether all replicas of all quorum queues have what a majority has, but for what is on its way. A
// node that was killed comes back with empty ones, counts as there, and gets their log only then:
// until it has it, the loss of another node is the loss of the majority.
const char* const kNoReplicaLags =
    "lists:all(fun(Q) -> I = [proplists:get_value(<<\"Commit Index\">>, S) || "
    "S <- rabbit_quorum_queue:status(<<\"/\">>, element(4, amqqueue:get_name(Q)))], "
    "lists:all(fun(N) -> is_integer(N) end, I) andalso lists:max(I) - lists:min(I) < 1000 end, "
    "[Q || Q <- rabbit_amqqueue:list(), amqqueue:get_type(Q) == rabbit_quorum_queue])";

}  // namespace

RabbitCluster::RabbitCluster(std::filesystem::path directory) {
  const auto start = [&](int number, RabbitOptions options) {
    options.config = clusterConfig(number);
    options.nodeName = nameOf(number);
    nodes_.at(static_cast<std::size_t>(number)) =
        std::make_unique<RabbitServer>(directory / nameOf(number), std::move(options));
  };
  // The first alone: nodes that find nobody to join at the same moment may each found a cluster.
  start(0, {});
  const RabbitOptions shared{.cookie = node(0).cookie(), .epmdPort = node(0).epmdPort()};
  std::array<std::future<void>, kNodes - 1> others;
  for (int number = 1; number < kNodes; ++number) {
    others.at(static_cast<std::size_t>(number - 1)) =
        std::async(std::launch::async, [&, number] { start(number, shared); });
  }
  for (auto& other : others) other.get();
  makeWhole();
}

std::string RabbitCluster::url(const std::vector<int>& order) const {
  std::string hosts;
  for (const int number : order) {
    hosts += (hosts.empty() ? "" : ",") + ("127.0.0.1:" + std::to_string(node(number).port()));
  }
  return "amqp://guest:guest@" + hosts + "/%2f";
}

void RabbitCluster::makeWhole() {
  std::vector<std::future<void>> starting;
  for (auto& node : nodes_) {
    if (!node->running()) {
      starting.push_back(std::async(std::launch::async, [&] { node->start(); }));
    }
  }
  for (auto& start : starting) start.get();
  const auto whole = [&](const std::unique_ptr<RabbitServer>& node) {
    return node->eval("length(nodes()) >= " + std::to_string(kNodes - 1) +
                      " andalso rabbit_quorum_queue:list_with_minimum_quorum() == []") == "true";
  };
  const auto allWhole = [&] {
    return std::ranges::all_of(nodes_, whole) && node(0).eval(kNoReplicaLags) == "true";
  };
  if (!eventually(std::chrono::seconds(60), allWhole)) {
    throw std::runtime_error("the RabbitMQ cluster has not become whole");
  }
}

int RabbitCluster::leaderOf(const std::string& queue) const {
  return numberOf(anyRunning().eval(
      with(queue,
           "case ra:leader_query(amqqueue:get_pid(Q), fun rabbit_fifo:query_messages_total/1, "
           "300) of "
           "{ok, _, {_, N}} -> N; _ -> none end")));
}

int RabbitCluster::nodeOf(const std::string& prefix) const {
  return numberOf(anyRunning().eval(
      "case [Q || Q <- rabbit_amqqueue:list(), string:prefix(element(4, amqqueue:get_name(Q)), \"" +
      prefix + "\") =/= nomatch] of [Q | _] -> node(amqqueue:get_pid(Q)); [] -> none end"));
}

int RabbitCluster::consumerOf(const std::string& queue) const {
  // A quorum queue keeps a consumer whose node is down, in case that it comes back.
  return numberOf(anyRunning().eval(
      with(queue,
           "case [N || C <- rabbit_amqqueue:consumers(Q), N <- [node(element(1, C))], "
           "lists:member(N, [node() | nodes()])] of [N | _] -> N; [] -> none end")));
}

const RabbitServer& RabbitCluster::anyRunning() const {
  for (const auto& node : nodes_) {
    if (node->running()) return *node;
  }
  throw std::runtime_error("no node of the RabbitMQ cluster runs");
}

int RabbitCluster::numberOf(const std::string& name) const {
  for (int number = 0; number < kNodes; ++number) {
    if (name.find(node(number).name()) != std::string::npos) return number;
  }
  return -1;
}

}  // namespace pillion::support
