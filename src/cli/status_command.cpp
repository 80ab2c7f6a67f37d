#include <cstdio>
#include <nlohmann/json.hpp>
#include <pillion/status.hpp>

#include "cli/commands.hpp"
#include "cli/database_flags.hpp"
#include "cli/groups.hpp"

namespace pillion::cli {
namespace {

struct Chosen {
  DatabaseOptions database;
  bool json = false;
};

nlohmann::json milliseconds(const std::optional<std::chrono::milliseconds>& age) {
  return age ? nlohmann::json(age->count()) : nlohmann::json(nullptr);
}

nlohmann::json holdersAsJson(const std::vector<SpaceHolder>& holders) {
  nlohmann::json list = nlohmann::json::array();
  for (const SpaceHolder& holder : holders) {
    list.push_back({{"pid", holder.pid},
                    {"application", holder.application},
                    {"user", holder.user},
                    {"state", holder.state},
                    {"age_s", holder.age.count()},
                    {"locked_children", holder.lockedChildren},
                    {"writes", holder.writes},
                    {"prepared_as", holder.preparedAs}});
  }
  return list;
}

nlohmann::json consumersAsJson(const std::vector<ConsumerStatus>& consumers) {
  nlohmann::json list = nlohmann::json::array();
  for (const ConsumerStatus& one : consumers) {
    list.push_back({{"consumer", one.consumer},
                    {"failed", one.failed},
                    {"held", one.held},
                    {"given_up", one.givenUp},
                    {"oldest_ms", one.oldest.count()}});
  }
  return list;
}

void printConsumers(const std::vector<ConsumerStatus>& consumers) {
  for (const ConsumerStatus& one : consumers) {
    std::printf("consumer %s: %llu failed, %llu held behind them, %llu given up, oldest %.1f s\n",
                one.consumer.c_str(), static_cast<unsigned long long>(one.failed),
                static_cast<unsigned long long>(one.held),
                static_cast<unsigned long long>(one.givenUp),
                static_cast<double>(one.oldest.count()) / 1000);
  }
}

void printJson(const OutboxStatus& status, const std::vector<ConsumerStatus>& consumers,
               const std::vector<GroupStatus>& groups) {
  nlohmann::json lanes = nlohmann::json::array();
  for (const LaneStatus& lane : status.lanes) {
    lanes.push_back({{"lane", lane.lane},
                     {"cursor", lane.cursor},
                     {"paging", lane.paging},
                     {"token", lane.token},
                     {"holder", lane.holder},
                     {"holder_gone", lane.holderGone}});
  }
  const nlohmann::json document{{"pending", status.pending},
                                {"pending_is_minimum", status.pendingIsMinimum},
                                {"oldest_ms", milliseconds(status.oldest)},
                                {"parked", status.parked},
                                {"parked_by_reason", status.parkedByReason},
                                {"oldest_parked_ms", milliseconds(status.oldestParked)},
                                {"scheduled", status.scheduled},
                                {"ring_children_in_use", status.childrenInUse},
                                {"ring_bytes", status.bytes},
                                {"space_holders", holdersAsJson(status.spaceHolders)},
                                {"lanes", lanes},
                                {"consumers", consumersAsJson(consumers)},
                                {"groups", groupsAsJson(groups)}};
  std::printf("%s\n", document.dump(2).c_str());
}

std::string age(const std::optional<std::chrono::milliseconds>& value) {
  if (!value) return "-";
  char text[32];
  std::snprintf(text, sizeof text, "%.1f s", static_cast<double>(value->count()) / 1000.0);
  return text;
}

bool sameState(const LaneStatus& a, const LaneStatus& b) {
  return a.cursor == b.cursor && a.paging == b.paging && a.token == b.token &&
         a.holderGone == b.holderGone;
}

std::string holderOf(const LaneStatus& lane) {
  if (lane.token == 0) return "nobody";
  return lane.holder + " (token " + std::to_string(lane.token) +
         (lane.holderGone ? ", gone)" : ")");
}

/// Lanes in the same state share a line: usually there is one.
void printLanes(const std::vector<LaneStatus>& lanes) {
  std::printf("\n%-8s %-32s %s\n", "lanes", "held by", "cursor");
  for (std::size_t first = 0; first < lanes.size();) {
    std::size_t next = first + 1;
    while (next < lanes.size() && sameState(lanes[first], lanes[next])) ++next;
    const std::string range =
        std::to_string(lanes[first].lane) +
        (next - first > 1 ? "-" + std::to_string(lanes[next - 1].lane) : std::string());
    std::printf("%-8s %-32s %s%s\n", range.c_str(), holderOf(lanes[first]).c_str(),
                lanes[first].cursor.c_str(), lanes[first].paging ? " (paging a backlog)" : "");
    first = next;
  }
}

std::string reasons(const std::map<std::string, std::uint64_t>& counts) {
  std::string text;
  for (const auto& [reason, count] : counts) {
    text += (text.empty() ? " (" : ", ") + std::to_string(count) + ' ' + reason;
  }
  return text.empty() ? text : text + ')';
}

void printHolder(const SpaceHolder& holder) {
  const std::string who =
      holder.pid == 0 ? "prepared transaction '" + holder.preparedAs + "'"
                      : "session " + std::to_string(holder.pid) + " (" + holder.application + ")";
  std::printf("  held by %s of %s, %s for %lld s%s\n", who.c_str(), holder.user.c_str(),
              holder.state.c_str(), static_cast<long long>(holder.age.count()),
              holder.lockedChildren > 0 ? ", which has used the outbox" : "");
}

void printText(const OutboxStatus& status) {
  std::printf("%-8s %s%llu, oldest %s\n", "pending", status.pendingIsMinimum ? "at least " : "",
              static_cast<unsigned long long>(status.pending), age(status.oldest).c_str());
  std::printf("%-8s %llu, oldest %s%s\n", "parked", static_cast<unsigned long long>(status.parked),
              age(status.oldestParked).c_str(), reasons(status.parkedByReason).c_str());
  if (status.scheduled > 0) {
    std::printf("%-8s %llu\n", "later", static_cast<unsigned long long>(status.scheduled));
  }
  std::printf("%-8s %.1f MiB in %d of 8 parts\n", "space",
              static_cast<double>(status.bytes) / (1U << 20), status.childrenInUse);
  for (const SpaceHolder& holder : status.spaceHolders) printHolder(holder);
  printLanes(status.lanes);
}

}  // namespace

void addStatusCommand(CLI::App& app) {
  auto chosen = std::make_shared<Chosen>();
  auto* command = app.add_subcommand(
      "status",
      "Show pending and parked events, the cursor and holder of each lane, and what consumers "
      "have parked, and who has which of their partitions");
  addDatabaseFlags(*command, chosen->database);
  command->add_flag("--json", chosen->json, "For programs");
  command->callback([chosen] {
    const OutboxStatus status = readOutboxStatus(chosen->database);
    const auto consumers = readInboxStatus(chosen->database);
    const auto groups = readGroupStatus(chosen->database);
    if (chosen->json) return printJson(status, consumers, groups);
    printText(status);
    printConsumers(consumers);
    printGroups(groups);
  });
}

}  // namespace pillion::cli
