#include <cstdio>
#include <nlohmann/json.hpp>
#include <pillion/error.hpp>
#include <pillion/replay.hpp>

#include "cli/commands.hpp"
#include "cli/database_flags.hpp"
#include "event/timestamp.hpp"

namespace pillion::cli {
namespace {

struct Chosen {
  ReplayOptions options;
  ReplayFilter filter;
  std::string from;
  std::string to;
  std::int64_t lastId = 0;
  bool all = false;
  bool json = false;
};

std::optional<Event::Time> timeOf(const std::string& flag, const std::string& text) {
  if (text.empty()) return std::nullopt;
  const auto time = fromRfc3339(text);
  if (!time) {
    throw ConfigError(flag + " '" + text +
                      "' is not a time such as 2026-01-31T23:59:59Z (RFC 3339)");
  }
  return time;
}

void replay(Chosen chosen) {
  chosen.filter.from = timeOf("--from", chosen.from);
  chosen.filter.to = timeOf("--to", chosen.to);
  if (chosen.lastId > 0) chosen.filter.lastId = chosen.lastId;
  const bool restricted = chosen.filter.from || chosen.filter.to || chosen.filter.lastId ||
                          chosen.filter.firstId > 0 || !chosen.filter.type.empty() ||
                          !chosen.filter.key.empty();
  if (!restricted && !chosen.all) {
    throw ConfigError(
        "replay takes --from, --to, --type, --key, --first-id or --last-id; "
        "or --all for everything that is kept");
  }
  const std::uint64_t events = replayEvents(chosen.filter, chosen.options);
  if (chosen.json) {
    const nlohmann::json document{
        {"events", events}, {"dry_run", chosen.options.dryRun}, {"as_new", chosen.options.asNew}};
    std::printf("%s\n", document.dump().c_str());
    return;
  }
  std::printf(chosen.options.dryRun ? "dry run: %llu events would be published again\n"
                                    : "%llu events are published again\n",
              static_cast<unsigned long long>(events));
}

}  // namespace

void addReplayCommand(CLI::App& app) {
  auto chosen = std::make_shared<Chosen>();
  auto* command = app.add_subcommand(
      "replay", "Publish events again that the outbox still holds (pillion relay --retention-h)");
  addDatabaseFlags(*command, chosen->options.database);
  command->add_option("--from", chosen->from, "Written at or after, RFC 3339");
  command->add_option("--to", chosen->to, "Written before, RFC 3339");
  command->add_option("--type", chosen->filter.type, "Topic pattern: * one word, # any number");
  command->add_option("--key", chosen->filter.key, "Aggregate key");
  command->add_option("--first-id", chosen->filter.firstId, "Outbox id")
      ->check(CLI::PositiveNumber);
  command->add_option("--last-id", chosen->lastId, "Outbox id")->check(CLI::PositiveNumber);
  command->add_flag("--all", chosen->all, "Everything that is kept");
  command->add_flag("--as-new", chosen->options.asNew,
                    "With new event ids, so that consumers apply them once more");
  command->add_flag("--dry-run", chosen->options.dryRun, "Count, change nothing");
  command->add_flag("--json", chosen->json, "For programs");
  command->callback([chosen] { replay(*chosen); });
}

}  // namespace pillion::cli
