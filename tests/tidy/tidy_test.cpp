#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "sources.hpp"

using namespace tidy;
using Names = std::set<std::string>;

namespace {

constexpr std::size_t kColumns = 100;
constexpr std::size_t kFunctionLines = 70;
constexpr std::size_t kFileLines = 350;
constexpr std::size_t kTestLines = 600;

std::string folderOf(const std::string& path) {
  const auto slash = path.find('/');
  return slash == std::string::npos ? "" : path.substr(0, slash);
}

/// The head comment of src/CMakeLists.txt: what the sources of a folder may include.
const std::map<std::string, Names>& allowedFolders() {
  static const std::map<std::string, Names> allowed = [] {
    std::map<std::string, Names> may;
    may["base"] = {"base"};
    const auto grow = [&](const std::string& folder, std::vector<std::string> on) {
      may[folder] = {folder};
      for (const std::string& other : on) may[folder].insert(may[other].begin(), may[other].end());
    };
    grow("event", {"base"});
    grow("postgres", {"event"});
    grow("migrate", {"postgres"});
    grow("outbox", {"migrate"});
    grow("amqp", {"event"});
    grow("relay", {"outbox", "amqp"});
    grow("inbox", {"migrate", "amqp"});
    grow("cli", {"relay", "inbox"});
    return may;
  }();
  return allowed;
}

/// Characters, not bytes.
std::size_t columnsOf(const std::string& line) {
  return static_cast<std::size_t>(std::ranges::count_if(
      line, [](char c) { return (static_cast<unsigned char>(c) & 0xC0U) != 0x80; }));
}

std::size_t indentOf(const std::string& line) {
  return std::min(line.find_first_not_of(' '), line.size());
}

/// The line that closes what the line `from` opens, as clang-format lays it out.
std::size_t closingLine(const Source& source, std::size_t from) {
  // The brace of a constructor's initialisers stands on a deeper line than the end of its body.
  for (std::size_t i = from + 1; i < source.lines.size(); ++i) {
    const std::string& line = source.lines[i];
    const std::size_t indent = indentOf(line);
    if (indent < line.size() && line[indent] == '}' && indent <= indentOf(source.lines[from])) {
      return i;
    }
  }
  return from;
}

bool opensFunction(const std::string& line) {
  return line.ends_with("{") && line.find(')') != std::string::npos;
}

/// Marked regions of an example: what stands between two lines `// [name]`, without its indent.
std::vector<std::string> regionsOf(const Source& source) {
  static const std::regex kMark(R"(^\s*// \[\w+\]$)");
  std::vector<std::string> regions;
  std::optional<std::vector<std::string>> open;
  for (const std::string& line : source.lines) {
    if (!std::regex_match(line, kMark)) {
      if (open) open->push_back(line);
      continue;
    }
    if (!open) {
      open.emplace();
      continue;
    }
    std::size_t indent = kColumns;
    for (const auto& each : *open) {
      if (!each.empty()) indent = std::min(indent, indentOf(each));
    }
    for (auto& each : *open) each.erase(0, std::min(indent, each.size()));
    regions.push_back(joined(*open));
    open.reset();
  }
  CHECK_MESSAGE(!open, source.path, " opens a region and does not close it");
  return regions;
}

/// The blocks between "```cpp" and "```".
std::vector<std::string> cppBlocksOf(const std::string& markdown) {
  std::vector<std::string> blocks;
  std::optional<std::string> open;
  for (const std::string& line : linesOf(markdown)) {
    if (!open && line == "```cpp") {
      open = "";
    } else if (open && line == "```") {
      blocks.push_back(*open);
      open.reset();
    } else if (open) {
      *open += line + '\n';
    }
  }
  return blocks;
}

/// The strings in what a text quotes of tests: from "*Test:*" or "*Tests:*" to the next empty line.
std::vector<std::string> testsNamedIn(const std::string& markdown) {
  static const std::regex kParagraph(R"(\*Tests?:\*([\s\S]*?)(\n\n|$))");
  static const std::regex kQuoted("\"([^\"]+)\"");
  std::vector<std::string> names;
  for (std::sregex_iterator at(markdown.begin(), markdown.end(), kParagraph), end; at != end;
       ++at) {
    const std::string text = std::regex_replace((*at)[1].str(), std::regex("\\s+"), " ");
    for (std::sregex_iterator quoted(text.begin(), text.end(), kQuoted); quoted != end; ++quoted) {
      names.push_back((*quoted)[1]);
    }
  }
  return names;
}

/// What stands in TEST_CASE(…), a name in several strings put together.
std::vector<std::string> testNames() {
  static const std::regex kCase(R"re(TEST_CASE\(\s*((?:"(?:[^"\\]|\\.)*"\s*)+))re");
  std::vector<std::string> names;
  for (const Source& source : cppSources({"tests"})) {
    std::string text;
    for (const std::string& line : source.lines) text += line + '\n';
    for (std::sregex_iterator at(text.begin(), text.end(), kCase), end; at != end; ++at) {
      std::string name = std::regex_replace((*at)[1].str(), std::regex(R"("\s*")"), "");
      names.push_back(name.substr(1, name.rfind('"') - 1));
    }
  }
  return names;
}

std::string binaryOf(const std::string& path) {
  const std::string text = textOf(path);  // an absolute path stays one
  REQUIRE_MESSAGE(text.starts_with("\x7f"
                                   "ELF"),
                  path, " is no object file");
  return text;
}

}  // namespace

TEST_CASE("includes point in the direction that src/CMakeLists.txt draws") {
  std::size_t seen = 0;
  for (const Source& source : cppSources({"src"})) {
    const std::string folder = folderOf(source.path.substr(4));
    REQUIRE_MESSAGE(allowedFolders().contains(folder), source.path, ": a folder without a rule");
    for (const Include& include : includesOf(source)) {
      if (!include.quoted) continue;
      ++seen;
      const bool allowed = allowedFolders().at(folder).contains(folderOf(include.name));
      CHECK_MESSAGE(allowed, include.where, " includes ", include.name);
    }
  }
  CHECK(seen > 100);
}

TEST_CASE("what publishes knows nothing of brokers, relays and inboxes") {
  for (const char* folder : {"base", "event", "postgres", "migrate", "outbox"}) {
    for (const char* other : {"amqp", "relay", "inbox", "cli"}) {
      CHECK_FALSE(allowedFolders().at(folder).contains(other));
    }
  }
}

TEST_CASE("public headers include the standard library, each other, pqxx and nlohmann alone") {
  const std::map<std::string, std::string> outside{
      {"include/pillion/transaction.hpp", "pqxx/pqxx"},
      {"include/pillion/event.hpp", "nlohmann/json.hpp"}};
  std::size_t seen = 0;
  for (const Source& source : cppSources({"include"})) {
    for (const Include& include : includesOf(source)) {
      ++seen;
      const bool standard = include.name.find_first_of("./") == std::string::npos;
      const bool ours = include.name.starts_with("pillion/");
      const auto exception = outside.find(source.path);
      const bool excepted = exception != outside.end() && exception->second == include.name;
      CHECK_MESSAGE((standard || ours || excepted), include.where, " includes ", include.name);
      CHECK_MESSAGE(!include.quoted, include.where, " includes by a quoted name");
    }
  }
  CHECK(seen > 30);
}

TEST_CASE("rabbitmq-c's headers are included by src/amqp/library.hpp alone") {
  const std::regex library(R"(^(rabbitmq-c/|amqp\.h|amqp_))");
  for (const Source& source : cppSources({"include", "src", "tests", "examples"})) {
    if (source.path == "src/amqp/library.hpp") continue;
    for (const Include& include : includesOf(source)) {
      CHECK_MESSAGE(!std::regex_search(include.name, library), include.where);
    }
  }
  // Nor do they leak from a header that other folders include.
  for (const Source& source : cppSources({"src"})) {
    if (source.path.starts_with("src/amqp/")) continue;
    for (const Include& include : includesOf(source)) {
      CHECK_MESSAGE(include.name != "amqp/library.hpp", include.where);
      CHECK_MESSAGE(include.name != "amqp/reply.hpp", include.where);
    }
  }
}

TEST_CASE("a table's SQL is in the file that owns the table") {
  const std::map<std::string, Names> owners{
      // Parking copies rows from the outbox inside the server.
      {"outbox", {"src/outbox/outbox_table.cpp", "src/outbox/parked_table.cpp"}},
      {"outbox_id_seq", {"src/outbox/outbox_table.cpp"}},
      {"outbox_", {"src/outbox/outbox_table.cpp"}},  // and a number: a part of the ring
      {"suspect", {"src/outbox/lane_table.cpp"}},
      {"server_state", {"src/outbox/lane_table.cpp"}},
      {"is_published", {"src/outbox/outbox_table.cpp", "src/outbox/parked_table.cpp"}},
      {"lane_of", {"src/outbox/outbox_table.cpp", "src/outbox/parked_table.cpp"}},
      {"fetch_live", {"src/outbox/outbox_table.cpp"}},
      {"fetch_page", {"src/outbox/outbox_table.cpp"}},
      {"lowest_late_id", {"src/outbox/outbox_table.cpp"}},
      {"new_event_id", {"src/outbox/outbox_table.cpp"}},
      {"truncate_published", {"src/outbox/outbox_table.cpp"}},
      {"rotate_ring", {"src/outbox/outbox_table.cpp"}},
      {"raise_idle_flag", {"src/outbox/outbox_table.cpp"}},
      {"lower_idle_flag", {"src/outbox/outbox_table.cpp"}},
      {"scheduled", {"src/outbox/scheduled_table.cpp", "src/outbox/sequence_table.cpp"}},
      {"move_due", {"src/outbox/scheduled_table.cpp"}},
      {"sequences", {"src/outbox/sequence_table.cpp"}},
      // Rebase sets the sequences of all tables forward in one statement.
      {"inbox_sequences", {"src/outbox/sequence_table.cpp", "src/inbox/inbox_parked_table.cpp"}},
      {"parked", {"src/outbox/parked_table.cpp"}},
      {"lane", {"src/outbox/lane_table.cpp"}},
      // Pending events are those that no lane's cursor has passed: one join. So are parked ones
      // that
      // will be read from the log once more.
      {"lane_position",
       {"src/outbox/lane_table.cpp", "src/migrate/meta_table.cpp", "src/outbox/outbox_table.cpp",
        "src/outbox/parked_table.cpp"}},
      {"relay", {"src/outbox/lane_table.cpp", "src/outbox/sequence_table.cpp"}},
      {"meta", {"src/migrate/meta_table.cpp"}},
      {"inbox", {"src/inbox/inbox_table.cpp"}},
      {"inbox_horizon", {"src/inbox/inbox_table.cpp"}},
      {"claim_events", {"src/inbox/inbox_table.cpp"}},
      {"inbox_window", {"src/inbox/inbox_table.cpp"}},
      {"inbox_group", {"src/inbox/group_table.cpp"}},
      {"inbox_instance", {"src/inbox/group_table.cpp"}},
      {"share_partitions", {"src/inbox/group_table.cpp"}},
      {"refuse_commit", {"src/inbox/inbox_table.cpp"}},
      {"inbox_parked", {"src/inbox/inbox_parked_table.cpp", "src/outbox/sequence_table.cpp"}},
      {"give_up", {"src/inbox/inbox_parked_table.cpp"}},
      {"inbox_dead", {"src/inbox/inbox_dead_table.cpp", "src/outbox/sequence_table.cpp"}},
      {"inbox_other", {"src/inbox/inbox_table.cpp"}}};
  const std::regex table(R"(\{schema\}\.(\w+))");
  Names seen;
  for (const Source& source : cppSources({"src"})) {
    const std::string text = joined(source.lines);
    for (std::sregex_iterator at(text.begin(), text.end(), table), end; at != end; ++at) {
      const std::string name = (*at)[1];
      seen.insert(name);
      REQUIRE_MESSAGE(owners.contains(name), source.path, ": table ", name, " has no owner");
      CHECK_MESSAGE(owners.at(name).contains(source.path), source.path, " uses table ", name);
    }
  }
  CHECK(seen.size() == owners.size());
}

TEST_CASE("log lines are written through base::log alone, which makes them printable") {
  const std::regex direct(R"(\blogger\(\)|spdlog::(debug|info|warn|error|critical))");
  std::size_t seen = 0;
  for (const Source& source : cppSources({"src"})) {
    if (source.path.starts_with("src/base/log")) continue;
    CHECK(joined(linesWith(source, direct)) == "");
    seen += linesWith(source, std::regex(R"(\blog\.(debug|info|warn|error|critical)\()")).size();
  }
  CHECK(seen > 40);
}

TEST_CASE("statements are written in *_table.cpp alone") {
  const std::regex statement(
      R"re("[^"]*\b(select [^"]* from|insert into|update \S+ set|delete from|truncate only)\b)re",
      std::regex::icase);
  for (const Source& source : cppSources({"include", "src"})) {
    if (source.path.ends_with("_table.cpp")) continue;
    CHECK(joined(linesWith(source, statement)) == "");
  }
}

TEST_CASE("no line is longer than 100 columns, ends in a blank or holds a tab") {
  for (const Source& source : cppSources({"include", "src", "tests", "examples"})) {
    for (std::size_t i = 0; i < source.lines.size(); ++i) {
      const std::string& line = source.lines[i];
      CHECK_MESSAGE(columnsOf(line) <= kColumns, source.path, ":", i + 1);
      CHECK_MESSAGE(!line.ends_with(' '), source.path, ":", i + 1);
      CHECK_MESSAGE(line.find('\t') == std::string::npos, source.path, ":", i + 1);
    }
  }
}

TEST_CASE("no function is longer than 70 lines") {
  for (const Source& source : cppSources({"include", "src", "tests", "examples"})) {
    for (std::size_t i = 0; i < source.lines.size(); ++i) {
      if (!opensFunction(source.lines[i])) continue;
      const std::size_t length = closingLine(source, i) - i + 1;
      CHECK_MESSAGE(length <= kFunctionLines, source.path, ":", i + 1, " has ", length, " lines");
    }
  }
}

TEST_CASE("no source is longer than 350 lines, and no test than 600") {
  for (const Source& source : cppSources({"include", "src", "examples"})) {
    CHECK_MESSAGE(source.lines.size() <= kFileLines, source.path);
  }
  for (const Source& source : cppSources({"tests"})) {
    CHECK_MESSAGE(source.lines.size() <= kTestLines, source.path);
  }
}

TEST_CASE(
    "every header is guarded by pragma once, and every source includes its own header first") {
  for (const Source& source : cppSources({"include", "src", "tests"})) {
    if (source.path.ends_with(".hpp")) {
      const bool guarded = std::ranges::count(source.lines, "#pragma once") == 1;
      CHECK_MESSAGE(guarded, source.path);
      continue;
    }
    const std::string own = source.path.substr(0, source.path.size() - 3) + "hpp";
    if (!source.path.starts_with("src/") || textOf(own).empty()) continue;
    CHECK_MESSAGE(includesOf(source).front().name == own.substr(4), source.path);
  }
}

TEST_CASE("mutexes are base::Mutex, whose locks clang's analysis sees") {
  const std::regex unseen(R"(std::(mutex|\w+_mutex|lock_guard|unique_lock|scoped_lock)\b)");
  for (const Source& source : cppSources({"src"})) {
    if (source.path == "src/base/thread_safety.hpp") continue;
    CHECK_MESSAGE(joined(linesWith(source, unseen)) == "", source.path);
  }
}

TEST_CASE("the changelog's newest version is the project's") {
  const std::string text = textOf("CHANGELOG.md");
  if (text.empty()) return;
  std::smatch version;
  REQUIRE(std::regex_search(text, version, std::regex(R"((?:^|\n)## \[?v?(\d+\.\d+\.\d+))")));
  CHECK(version[1] == TIDY_VERSION);
}

TEST_CASE("a test that the documents name exists") {
  const auto names = testNames();
  std::size_t seen = 0;
  for (const std::string document : {"docs/architecture.md", "docs/guarantees.md"}) {
    for (const std::string& quoted : testsNamedIn(textOf(document))) {
      ++seen;
      const auto ellipsis = quoted.find(" …");  // the tests that begin so
      const auto fits = [&](const std::string& name) {
        return ellipsis == std::string::npos ? name == quoted
                                             : name.starts_with(quoted.substr(0, ellipsis));
      };
      CHECK_MESSAGE(std::ranges::any_of(names, fits), document, " names \"", quoted, "\"");
    }
  }
  CHECK(names.size() > 300);
  CHECK(seen > 30);
}

TEST_CASE("the README's C++ is a marked region of an example, so it is compiled") {
  const std::string readme = textOf("README.md");
  std::vector<std::string> regions;
  for (const Source& source : cppSources({"examples"})) {
    for (auto& region : regionsOf(source)) regions.push_back(std::move(region));
  }
  for (const std::string& block : cppBlocksOf(readme)) {
    CHECK_MESSAGE(std::ranges::find(regions, block) != regions.end(), block);
  }
}

TEST_CASE("every source and every test is built") {
  for (const std::string folder : {"src", "src/cli", "tests/unit", "tests/integration"}) {
    const std::string list = textOf(folder + "/CMakeLists.txt");
    std::size_t files = 0;
    for (const Source& source : cppSources({folder})) {
      const std::string name = source.path.substr(folder.size() + 1);
      if (!name.ends_with(".cpp") || (folder == "src" && name.starts_with("cli/"))) continue;
      CHECK_MESSAGE(list.find(name) != std::string::npos, source.path);
      ++files;
    }
    CHECK(files > 5);
  }
}

TEST_CASE("a build without failpoints holds no name of one") {
  const std::string name = "relay.published";
  CHECK(binaryOf(TIDY_MAIN_ROAD_WITHOUT_FAILPOINTS).find(name) == std::string::npos);
  CHECK(binaryOf(TIDY_MAIN_ROAD_WITH_FAILPOINTS).find(name) != std::string::npos);
}

TEST_CASE("every file of SQL is in the record of what a release ships") {
  const std::string record = textOf("tests/released.sha256");
  std::size_t files = 0;
  for (const auto& file : std::filesystem::directory_iterator(TIDY_ROOT "/sql")) {
    const std::string name = file.path().filename().string();
    CAPTURE(name);
    CHECK(record.find("  sql/" + name + '\n') != std::string::npos);
    ++files;
  }
  CHECK(files >= 4);
}
