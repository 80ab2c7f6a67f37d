#pragma once

#include <nlohmann/json.hpp>
#include <pillion/group.hpp>
#include <vector>

namespace pillion::cli {

/// Who has which partitions, for people and for programs.
void printGroups(const std::vector<GroupStatus>& groups);
nlohmann::json groupsAsJson(const std::vector<GroupStatus>& groups);

}  // namespace pillion::cli
