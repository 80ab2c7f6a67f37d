// What an operator is told of whoever keeps the ring's space.
#define PILLION_TEST_MAIN
#include <algorithm>
#include <nlohmann/json.hpp>

#include "fixture.hpp"
#include "outbox/activity_table.hpp"

using namespace pillion;
using namespace pillion::test;

namespace {

constexpr const char* kInsert =
    "insert into pillion.outbox (event_id, type, source, time, content_type, payload)"
    " values (gen_random_uuid(), 'a.b', 's', now(), 'application/json', '{\"n\":7}')";

/// A database with a transaction that was prepared and forgotten.
struct Setup {
  TestDatabase database;
  std::string name = uniqueName("forgotten");

  Setup() {
    database.execute(std::string("begin; ") + kInsert + "; prepare transaction '" + name + "'");
  }
  ~Setup() {
    try {
      database.execute("rollback prepared '" + name + "'");
    } catch (const std::exception&) {  // the test has ended it
    }
  }
  Setup(const Setup&) = delete;
  Setup& operator=(const Setup&) = delete;

  [[nodiscard]] std::vector<SpaceHolder> holders(std::chrono::seconds least) const {
    auto connection = database.connect();
    pqxx::work tx{connection};
    return outbox::readSpaceHolders(tx, "pillion", least);
  }
  [[nodiscard]] std::string status(const std::vector<std::string>& arguments = {}) const {
    std::vector<std::string> command{PILLION_PROGRAM, "status"};
    command.insert(command.end(), arguments.begin(), arguments.end());
    const auto result =
        support::run({.command = command, .environment = environmentFor(database, "unused")});
    CHECK(result.status == 0);
    return result.output;
  }
};

}  // namespace

TEST_CASE("a prepared transaction is named by what ROLLBACK PREPARED needs, and is so ended") {
  Setup setup;
  const auto holders = setup.holders(0s);
  REQUIRE(holders.size() == 1);
  CHECK(holders[0].pid == 0);
  CHECK(holders[0].state == "prepared");
  CHECK(holders[0].preparedAs == setup.name);
  CHECK(holders[0].user == support::PostgresServer::kUser);
  CHECK(holders[0].writes);
  CHECK(holders[0].age < 60s);
  CHECK(setup.holders(3'600s).empty());
  // One of another database of the cluster is in nobody's way here.
  CHECK(Setup().holders(0s).size() == 1);
  setup.database.execute("rollback prepared '" + holders[0].preparedAs + "'");
  CHECK(setup.holders(0s).empty());
}

TEST_CASE("the command status names sessions and prepared transactions that are in the way") {
  Setup setup;
  pqxx::connection writing(setup.database.url() + "?application_name=nightly%20report");
  pqxx::work writer{writing};
  writer.exec(kInsert);
  const std::string session = "session " + std::to_string(writing.backendpid());
  CHECK(setup.status().find("held by session") == std::string::npos);  // ten seconds are allowed

  std::string text;
  REQUIRE(eventually(30s, [&] {
    text = setup.status();
    return text.find("prepared transaction") != std::string::npos &&
           text.find(session) != std::string::npos;
  }));
  CAPTURE(text);
  CHECK(text.find("held by prepared transaction '" + setup.name + "' of pillion, prepared for ") !=
        std::string::npos);
  CHECK(text.find("held by " + session +
                  " (nightly report) of pillion, idle in transaction for ") != std::string::npos);
  CHECK(text.find(" s, which has used the outbox\n") != std::string::npos);
  CHECK(text.find("insert") == std::string::npos);  // nobody's statements

  const auto document = nlohmann::json::parse(setup.status({"--json"}));
  const auto& holders = document.at("space_holders");
  REQUIRE(holders.size() == 2);
  const auto holder = [&](int pid) {
    return *std::ranges::find_if(holders, [&](const auto& one) { return one.at("pid") == pid; });
  };
  const auto prepared = holder(0);
  CHECK(prepared.at("prepared_as") == setup.name);
  CHECK(prepared.at("state") == "prepared");
  CHECK(prepared.at("user") == "pillion");
  CHECK(prepared.at("writes") == true);
  CHECK(prepared.at("age_s") >= 10);
  const auto open = holder(writing.backendpid());
  CHECK(open.at("application") == "nightly report");
  CHECK(open.at("state") == "idle in transaction");
  CHECK(open.at("locked_children") == 1);
  CHECK(open.at("writes") == true);
  CHECK(open.at("prepared_as") == "");
  writer.abort();
}
