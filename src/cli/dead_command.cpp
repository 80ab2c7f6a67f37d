#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <pillion/dead_letters.hpp>
#include <pillion/error.hpp>
#include <pillion/event.hpp>

#include "base/printable.hpp"
#include "cli/broker_flags.hpp"
#include "cli/commands.hpp"
#include "event/event_check.hpp"

namespace pillion::cli {
namespace {

using base::printable;
using nlohmann::json;

struct Chosen {
  DeadLetterOptions options;
  DeadLetterFilter filter;
  std::string service;
  std::string subscription = "events";
  std::string olderThan;
  std::string newerThan;
  bool all = false;
  bool json = false;
};

/// "90s", "30m", "12h" or "2d".
std::optional<std::chrono::seconds> ageOf(const std::string& flag, const std::string& text) {
  if (text.empty()) return std::nullopt;
  static const std::map<char, long> kUnits{{'s', 1}, {'m', 60}, {'h', 3'600}, {'d', 86'400}};
  const auto unit = kUnits.find(text.back());
  const std::string digits = text.substr(0, text.size() - 1);
  const bool number = !digits.empty() && digits.size() < 9 &&
                      digits.find_first_not_of("0123456789") == std::string::npos;
  if (unit == kUnits.end() || !number) {
    throw ConfigError(flag + " '" + text + "' is not an age such as 90s, 30m, 12h or 2d");
  }
  return std::chrono::seconds(std::stol(digits) * unit->second);
}

void complete(Chosen& chosen) {
  if (chosen.options.queue.empty()) {
    if (chosen.service.empty()) throw ConfigError("dead needs --service, or --queue");
    chosen.options.queue = chosen.service + "." + chosen.subscription;
  }
  chosen.filter.olderThan = ageOf("--older-than", chosen.olderThan);
  chosen.filter.newerThan = ageOf("--newer-than", chosen.newerThan);
}

void requireChoice(const Chosen& chosen) {
  if (chosen.filter.restricts() || chosen.all) return;
  throw ConfigError(
      "this takes --id, --type, --reason, --older-than, --newer-than or --limit; or --all for "
      "every "
      "dead letter");
}

json summaryOf(const DeadLetter& letter) {
  return {{"id", letter.id},
          {"type", letter.type},
          {"source", letter.source},
          {"key", letter.key},
          {"reason", letter.reason},
          {"error", letter.error},
          {"attempts", letter.attempts},
          {"first_at", letter.firstAt},
          {"last_at", letter.lastAt},
          {"exchange", letter.exchange},
          {"routing_key", letter.routingKey},
          {"queue", letter.queue},
          {"bytes", letter.body.size()}};
}

/// Whatever bytes a peer sent must not end the program.
std::string dumped(const json& document) {
  return document.dump(2, ' ', false, json::error_handler_t::replace);
}

std::string bodyAsText(const DeadLetter& letter) {
  if (isUtf8Text(letter.body)) return letter.body;
  return "(" + std::to_string(letter.body.size()) + " bytes that are no text)";
}

json wholeOf(const DeadLetter& letter) {
  json document = summaryOf(letter);
  document["content_type"] = letter.contentType;
  document["content_encoding"] = letter.contentEncoding;
  json headers = json::array();
  for (const auto& [name, value] : letter.headers) {
    headers.push_back({{"name", name}, {"value", value}});
  }
  document["headers"] = std::move(headers);
  document["data"] = bodyAsText(letter);
  return document;
}

void warnOfOthers(const Chosen& chosen, const DeadLetterCount& count) {
  if (count.seen >= count.held) return;
  std::fprintf(stderr,
               "pillion: '%s.dead' held %llu letters, and %llu of them could be seen: somebody "
               "else takes from it\n",
               chosen.options.queue.c_str(), static_cast<unsigned long long>(count.held),
               static_cast<unsigned long long>(count.seen));
}

void list(Chosen& chosen) {
  complete(chosen);
  json letters = json::array();
  if (!chosen.json) {
    std::printf("%-36s  %-24s  %-22s  %8s  %-27s  %s\n", "id", "type", "reason", "attempts",
                "last failed", "error");
  }
  const auto count = visitDeadLetters(chosen.options, chosen.filter, [&](const DeadLetter& letter) {
    if (chosen.json) {
      letters.push_back(summaryOf(letter));
      return;
    }
    std::printf("%-36s  %-24s  %-22s  %8d  %-27s  %.100s\n", printable(letter.id).c_str(),
                printable(letter.type).c_str(), printable(letter.reason).c_str(), letter.attempts,
                printable(letter.lastAt).c_str(), printable(letter.error).c_str());
  });
  warnOfOthers(chosen, count);
  if (!chosen.json) return;
  const json document{
      {"queue", chosen.options.queue}, {"letters", letters}, {"looked_at", count.seen}};
  std::printf("%s\n", dumped(document).c_str());
}

void show(Chosen& chosen) {
  complete(chosen);
  json letters = json::array();
  const auto count = visitDeadLetters(chosen.options, chosen.filter, [&](const DeadLetter& letter) {
    letters.push_back(wholeOf(letter));
    if (chosen.json) return;
    for (const auto& [name, value] : letters.back().items()) {
      if (name == "headers" || name == "data") continue;
      const std::string text = value.is_string() ? value.get<std::string>() : value.dump();
      std::printf("%-13s %s\n", name.c_str(), printable(text).c_str());
    }
    for (const auto& [name, value] : letter.headers) {
      std::printf("header        %s: %s\n", printable(name).c_str(), printable(value).c_str());
    }
    std::printf("\n%s\n",
                printable(bodyAsText(letter), std::string::npos, base::Lines::Kept).c_str());
  });
  warnOfOthers(chosen, count);
  if (chosen.json) std::printf("%s\n", dumped(letters).c_str());
  if (letters.empty()) {
    std::fprintf(stderr, "pillion: no dead letter with id '%s' in '%s.dead'\n",
                 chosen.filter.id.c_str(), chosen.options.queue.c_str());
  }
}

void report(const Chosen& chosen, const DeadLetterCount& count, const char* done) {
  warnOfOthers(chosen, count);
  if (chosen.json) {
    const json document{{"queue", chosen.options.queue},
                        {done, count.chosen},
                        {"refused", count.refused},
                        {"dry_run", chosen.options.dryRun},
                        {"looked_at", count.seen}};
    std::printf("%s\n", document.dump().c_str());
    return;
  }
  std::printf("%s%llu of %llu dead letters %s %s\n", chosen.options.dryRun ? "dry run: " : "",
              static_cast<unsigned long long>(count.chosen),
              static_cast<unsigned long long>(count.seen),
              chosen.options.dryRun ? "would be" : "were", done);
}

void redrive(Chosen& chosen) {
  complete(chosen);
  requireChoice(chosen);
  const auto count = redriveDeadLetters(chosen.options, chosen.filter);
  report(chosen, count, "redriven");
  if (count.refused == 0) return;
  throw ConfigError(std::to_string(count.refused) +
                    " dead letters were refused and stay where they are; the log names them");
}

void discard(Chosen& chosen) {
  complete(chosen);
  requireChoice(chosen);
  report(chosen, discardDeadLetters(chosen.options, chosen.filter), "discarded");
}

void addVerb(CLI::App& dead, const std::string& name, const std::string& help,
             void (*run)(Chosen&)) {
  auto chosen = std::make_shared<Chosen>();
  auto* command = dead.add_subcommand(name, help);
  addBrokerUrl(*command, chosen->options.broker);
  command->add_option("--service", chosen->service, "The consuming service");
  command->add_option("--subscription", chosen->subscription, "Its subscription")
      ->capture_default_str();
  command->add_option("--queue", chosen->options.queue,
                      "Its queue, in place of <service>.<subscription>");
  auto* id = command->add_option("--id", chosen->filter.id, "Event id");
  command->add_flag("--json", chosen->json, "For programs");
  if (name == "show") {
    id->required();
  } else {
    command->add_option("--type", chosen->filter.type,
                        "Topic pattern: * one word, # any number of words");
    command->add_option("--reason", chosen->filter.reason,
                        "rejected, handler-failed, no-handler, invalid-event, "
                        "outside-dedupe-window, delivery-limit");
    command->add_option("--older-than", chosen->olderThan,
                        "Last failure longer ago: 90s, 30m, 12h, 2d");
    command->add_option("--newer-than", chosen->newerThan, "Last failure less long ago");
    command->add_option("--limit", chosen->filter.limit, "The oldest so many")
        ->check(CLI::PositiveNumber);
  }
  if (name == "redrive" || name == "discard") {
    command->add_flag("--all", chosen->all, "Every dead letter of the queue");
    command->add_flag("--dry-run", chosen->options.dryRun, "Count, change nothing");
  }
  if (name == "redrive") {
    command->add_flag("--outside-window", chosen->options.outsideWindow,
                      "Apply also what has left the dedupe window: only when you know that it was "
                      "not applied");
  }
  command->callback([chosen, run] { run(*chosen); });
}

}  // namespace

void addDeadCommand(CLI::App& app) {
  auto* dead = app.add_subcommand("dead", "Dead letters of a consumer: look, send again, discard");
  dead->require_subcommand(1);
  addVerb(*dead, "list", "What is there, a line each", list);
  addVerb(*dead, "show", "One letter, with its headers and data", show);
  addVerb(*dead, "redrive", "Send letters to their service again, and to no other", redrive);
  addVerb(*dead, "discard", "Remove letters for good", discard);
}

}  // namespace pillion::cli
