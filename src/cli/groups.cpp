#include "cli/groups.hpp"

#include <cstdio>
#include <string>

namespace pillion::cli {
namespace {

/// "0-3, 7"
std::string ranges(const std::vector<int>& partitions) {
  std::string text;
  for (std::size_t first = 0; first < partitions.size();) {
    std::size_t last = first;
    while (last + 1 < partitions.size() && partitions[last + 1] == partitions[last] + 1) ++last;
    text += (text.empty() ? "" : ", ") + std::to_string(partitions[first]);
    if (last > first) text += "-" + std::to_string(partitions[last]);
    first = last + 1;
  }
  return text.empty() ? "none" : text;
}

std::string partitionsOf(const GroupStatus& group) {
  std::string text = std::to_string(group.partitions) + " partitions";
  if (group.nextPartitions == 0) return text;
  return text + ", being changed to " + std::to_string(group.nextPartitions) + ": " +
         std::to_string(group.drained) + " of " + std::to_string(group.partitions) +
         " are worked off";
}

}  // namespace

void printGroups(const std::vector<GroupStatus>& groups) {
  for (const GroupStatus& group : groups) {
    std::printf("consumer %s: %s\n", group.consumer.c_str(), partitionsOf(group).c_str());
    for (const InstanceStatus& one : group.instances) {
      std::printf("  %-32s %s%s\n", one.name.c_str(), ranges(one.partitions).c_str(),
                  one.gone    ? " (gone)"
                  : one.ready ? ""
                              : " (without a connection to RabbitMQ)");
    }
    if (group.instances.empty()) std::printf("  no instance is running\n");
  }
}

nlohmann::json groupsAsJson(const std::vector<GroupStatus>& groups) {
  nlohmann::json list = nlohmann::json::array();
  for (const GroupStatus& group : groups) {
    nlohmann::json instances = nlohmann::json::array();
    for (const InstanceStatus& one : group.instances) {
      instances.push_back({{"name", one.name},
                           {"partitions", one.partitions},
                           {"ready", one.ready},
                           {"gone", one.gone}});
    }
    list.push_back({{"consumer", group.consumer},
                    {"partitions", group.partitions},
                    {"generation", group.generation},
                    {"next_partitions", group.nextPartitions},
                    {"drained", group.drained},
                    {"instances", std::move(instances)}});
  }
  return list;
}

}  // namespace pillion::cli
