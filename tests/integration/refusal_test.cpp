// What a broker refuses: which of it passes by itself, and is waited for, and what somebody must
// mend, and ends a program with exit code 2. And what one of several hosts refuses.
#define PILLION_TEST_MAIN
#include <algorithm>
#include <csignal>

#include "consumer_fixture.hpp"
#include "support/ports.hpp"
#include "support/tcp_gate.hpp"

namespace pillion::test {
namespace {

constexpr const char* kCanary = "hush-4711";

/// A user of the broker with all rights, and none of the others' limits.
struct User {
  User() { Servers::mq().addUser(name, kCanary, ".*", ".*", ".*"); }
  ~User() {
    try {
      Servers::mq().ctl({"delete_user", name});
    } catch (const std::runtime_error&) {
      // A test has deleted it.
    }
  }
  User(const User&) = delete;
  User& operator=(const User&) = delete;

  [[nodiscard]] BrokerOptions options() const {
    auto options = brokerOptions("unused");
    options.url = Servers::mq().url(name, kCanary);
    return options;
  }
  void connect() const { amqp::Connection(options(), "test").close(); }

  std::string name = uniqueName("user");
};

/// What is thrown; the test fails when it is nothing, or the password is in it.
template <typename E, typename Action>
std::string refusal(const Action& action) {
  try {
    action();
    FAIL_CHECK("nothing was refused");
  } catch (const E& error) {
    CHECK(std::string(error.what()).find(kCanary) == std::string::npos);
    return error.what();
  } catch (const std::exception& error) {
    FAIL_CHECK("another exception: " << error.what());
  }
  return "";
}

std::string hostsUrl(const std::vector<std::string>& hosts,
                     const std::string& user = "guest:guest") {
  std::string list;
  for (const std::string& host : hosts) list += (list.empty() ? "" : ",") + host;
  return "amqp://" + user + "@" + list + "/%2f";
}

std::string localHost(int port) {
  return "127.0.0.1:" + std::to_string(port);
}

}  // namespace

TEST_CASE("limits of connections, channels and queues are passing") {
  const User user;
  user.connect();
  const auto& mq = Servers::mq();
  SUBCASE("connections of the user") {
    mq.ctl({"set_user_limits", user.name, R"({"max-connections":0})"});
    CHECK(refusal<BrokerError>([&] { user.connect(); }).find("limit") != std::string::npos);
  }
  SUBCASE("channels of the user") {
    mq.ctl({"set_user_limits", user.name, R"({"max-channels":0})"});
    refusal<BrokerError>([&] { user.connect(); });
  }
  SUBCASE("connections of the vhost") {
    mq.ctl({"set_vhost_limits", "-p", "/", R"({"max-connections":0})"});
    refusal<BrokerError>([&] { user.connect(); });
    mq.ctl({"clear_vhost_limits", "-p", "/"});
  }
  SUBCASE("queues of the vhost") {
    mq.ctl({"set_vhost_limits", "-p", "/", R"({"max-queues":0})"});
    amqp::Connection connection(user.options(), "test");
    refusal<BrokerError>([&] { connection.holdExclusiveQueue("pillion.fence.x"); });
    mq.ctl({"clear_vhost_limits", "-p", "/"});
  }
  mq.ctl({"clear_user_limits", user.name, "all"});
  user.connect();
}

TEST_CASE("a user without access, a deleted one and a missing vhost are final") {
  const User user;
  amqp::Connection connected(user.options(), "test");
  SUBCASE("no access to the vhost") {
    Servers::mq().ctl({"clear_permissions", user.name});
    refusal<ConfigError>([&] { user.connect(); });
    refusal<ConfigError>([&] { connected.declareTopicExchange("no-right"); });
  }
  SUBCASE("deleted") {
    Servers::mq().ctl({"delete_user", user.name});
    refusal<ConfigError>([&] { user.connect(); });
    // Who is connected is told that it is over, which may pass; the next login tells the truth.
    refusal<BrokerError>([&] {
      for (int i = 0; i < 50; ++i) connected.receive(100ms);
    });
  }
  SUBCASE("a vhost that is deleted") {
    Servers::mq().ctl({"add_vhost", "gone"});
    Servers::mq().ctl({"set_permissions", "-p", "gone", user.name, ".*", ".*", ".*"});
    auto options = user.options();
    options.url.replace(options.url.rfind("/%2f"), 4, "/gone");
    amqp::Connection connection(options, "test");
    Servers::mq().ctl({"delete_vhost", "gone"});
    refusal<BrokerError>([&] {
      for (int i = 0; i < 50; ++i) connection.receive(100ms);
    });
    const auto text = refusal<ConfigError>([&] { amqp::Connection(options, "test"); });
    CHECK(text.find("gone") != std::string::npos);
  }
}

TEST_CASE("a broker whose application is stopped is away, and comes back") {
  const User user;
  amqp::Connection connected(user.options(), "test");
  Servers::mq().ctl({"stop_app"});
  refusal<BrokerError>([&] { user.connect(); });
  refusal<BrokerError>([&] {
    for (int i = 0; i < 50; ++i) connected.receive(100ms);
  });
  Servers::mq().ctl({"start_app"});
  CHECK(eventually(20s, [&] {
    try {
      user.connect();
    } catch (const BrokerError&) {
      return false;
    }
    return true;
  }));
}

TEST_CASE("a second relay beyond the limit of connections waits for the first one's place") {
  const User user;
  const TestDatabase database;
  const std::string exchange = uniqueName("exchange");
  Servers::mq().ctl({"set_user_limits", user.name, R"({"max-connections":1})"});
  const std::vector<std::string> arguments{"--amqp-url", user.options().url};
  auto first = startRelayProcess(database, exchange, "", arguments);
  REQUIRE(eventually(20s, [&] { return lanesPerHolder(database).count("") == 0; }));
  auto second = startRelayProcess(database, exchange, "", arguments);
  CHECK(eventually(10s, [&] { return second.output().find("limit") != std::string::npos; }));
  CHECK(holdsFor(1s, [&] { return second.running(); }));
  CHECK(first.terminate(15s) == 0);
  CHECK(eventually(20s, [&] { return lanesPerHolder(database).count("") == 0; }));
  CHECK(second.terminate(15s) == 0);
  CHECK(second.output().find(kCanary) == std::string::npos);
}

TEST_CASE("a relay that may hold no fence ends at its start with exit code 2 and says why") {
  const TestDatabase database;
  for (const auto& [configure, read] :
       {std::pair("^pillion.events$", ".*"), std::pair(".*", "^$")}) {
    Servers::mq().addUser("fenceless", kCanary, configure, ".*", read);
    auto relay = startRelayProcess(database, "pillion.events", "",
                                   {"--amqp-url", Servers::mq().url("fenceless", kCanary)});
    CHECK(relay.waitFor(20s) == 2);
    CHECK(relay.output().find("pillion.fence.") != std::string::npos);
    CHECK(relay.output().find("permission") != std::string::npos);
    CHECK(relay.output().find(kCanary) == std::string::npos);
  }
}

TEST_CASE("of several hosts the unknown, the closed and the silent are passed by") {
  support::TcpGate silent(Servers::mq().port());
  silent.stall();
  auto options = brokerOptions("unused");
  options.connectTimeout = 1s;
  for (const std::string& bad : {std::string("no-such-host.invalid"),
                                 localHost(support::freePort()), localHost(silent.port())}) {
    CAPTURE(bad);
    options.url = hostsUrl({bad, localHost(Servers::mq().port())});
    for (int i = 0; i < 3; ++i) {
      amqp::Connection connection(options, "test");
      CHECK(connection.where() == localHost(Servers::mq().port()));
      CHECK(connection.queueExists("no-such-queue") == false);
      connection.close();
    }
  }
}

TEST_CASE("a connection that ends makes the next begin with another host") {
  support::TcpGate one(Servers::mq().port());
  support::TcpGate two(Servers::mq().port());
  auto options = brokerOptions("unused");
  options.url = hostsUrl({localHost(one.port()), localHost(two.port())});
  std::string last;
  for (int i = 0; i < 4; ++i) {
    amqp::Connection connection(options, "test");
    CHECK(connection.where() != last);
    last = connection.where();
    (last == localHost(one.port()) ? one : two).cut();
    const auto text = refusal<BrokerError>([&] {
      for (int n = 0; n < 50; ++n) connection.receive(100ms);
    });
    CHECK(text.find(last) != std::string::npos);  // the line in the log says which
  }
}

TEST_CASE("hosts that all refuse for good are final, each with its name and no password") {
  const std::string here = localHost(Servers::mq().port());
  auto options = brokerOptions("unused");
  options.url = hostsUrl({"no-such-host.invalid", here}, std::string("guest:") + kCanary);
  const auto final = refusal<ConfigError>([&] { amqp::Connection(options, "test"); });
  CHECK(final.find("no-such-host.invalid") != std::string::npos);
  CHECK(final.find(here) != std::string::npos);
  const std::string closed = localHost(support::freePort());
  options.url = hostsUrl({here, closed}, std::string("guest:") + kCanary);
  const auto passing = refusal<BrokerError>([&] { amqp::Connection(options, "test"); });
  CHECK(passing.find(here) != std::string::npos);
  CHECK(passing.find(closed) != std::string::npos);
}

// PostgreSQL's side of the same: by a program's exit code, 1 for what passes and 2 for what does
// not.

namespace {

int statusOf(const std::string& url) {
  const auto ended = support::run(
      {.command = {PILLION_PROGRAM, "status"}, .environment = {{"PILLION_DATABASE_URL", url}}});
  CHECK(std::ranges::count(ended.output, '\n') == 1);
  CHECK(ended.output.find(kCanary) == std::string::npos);
  if (ended.status != 1 && ended.status != 2) FAIL_CHECK(ended.output);
  return ended.status;
}

}  // namespace

TEST_CASE("what PostgreSQL refuses for now is waited for, what somebody must grant is not") {
  const TestDatabase database;
  const std::string role = uniqueName("role");
  const std::string url = Servers::pg().urlAs(role, kCanary, database.name());
  const auto admin = [](const std::string& sql) { Servers::pg().execute("postgres", sql); };
  admin("create role \"" + role + "\" login password '" + kCanary + "'");
  SUBCASE("the role may not log in") {
    admin("alter role \"" + role + "\" nologin");
    CHECK(statusOf(url) == 2);
  }
  SUBCASE("its password has run out") {
    admin("alter role \"" + role + "\" valid until '2020-01-01'");
    CHECK(statusOf(url) == 2);
  }
  SUBCASE("it may not connect") {
    admin("revoke connect on database \"" + database.name() + "\" from public");
    CHECK(statusOf(url) == 2);
  }
  SUBCASE("the role is gone") {
    admin("drop role \"" + role + "\"");
    CHECK(statusOf(url) == 2);
  }
  SUBCASE("the database takes no connections now, as while it is moved") {
    admin("alter database \"" + database.name() + "\" allow_connections false");
    CHECK(statusOf(url) == 1);
  }
}

TEST_CASE("a server that is full, goes down or is not yet up is waited for") {
  support::TemporaryDirectory directory;
  support::PostgresServer server{
      directory / "postgres",
      {.settings = {{"max_connections", "6"}, {"superuser_reserved_connections", "5"}}}};
  server.createDatabase("full");
  server.execute("full", "create role guest login password 'hush-4711'");
  const std::string url = server.urlAs("guest", kCanary, "full");
  std::optional<pqxx::connection> session(std::in_place, url);
  CHECK(statusOf(url) == 1);  // 53300: the remaining slots are a superuser's
  session.reset();
  CHECK(statusOf(url) == 2);  // and when there is one: nothing is migrated
  session.emplace(server.url("full"));
  ::kill(server.pid(), SIGTERM);  // ends when the last session has ended, and takes no new one
  CHECK(eventually(10s, [&] {
    return server.log().find("received smart shutdown request") != std::string::npos;
  }));
  CHECK(statusOf(url) == 1);  // 57P03
  session.reset();
  server.stop();
  CHECK(statusOf(url) == 1);
}

TEST_CASE("a vhost that is down, as after a fault of its stores, is away and comes back") {
  const User user;
  const auto& mq = Servers::mq();
  mq.ctl({"add_vhost", "broken"});
  mq.ctl({"set_permissions", "-p", "broken", user.name, ".*", ".*", ".*"});
  auto options = user.options();
  options.url.replace(options.url.rfind("/%2f"), 4, "/broken");
  amqp::Connection before(options, "test");
  mq.eval("rabbit_vhost_sup_sup:stop_and_delete_vhost(<<\"broken\">>)");
  refusal<BrokerError>([&] { amqp::Connection(options, "test"); });
  mq.ctl({"restart_vhost", "-p", "broken"});
  CHECK(eventually(20s, [&] {
    try {
      amqp::Connection(options, "test").close();
    } catch (const BrokerError&) {
      return false;
    }
    return true;
  }));
  mq.ctl({"delete_vhost", "broken"});
}

TEST_CASE("an error inside of the broker ends a connection and is no setting's fault") {
  const User user;
  amqp::Connection connected(user.options(), "test");
  Servers::mq().eval("[exit(Channel, kill) || Channel <- rabbit_channel:list()], ok");
  const auto text = refusal<BrokerError>([&] {
    for (int i = 0; i < 50; ++i) connected.receive(100ms);
  });
  CHECK(text.find("INTERNAL_ERROR") != std::string::npos);  // 541
  CHECK(eventually(20s, [&] {
    try {
      user.connect();
    } catch (const BrokerError&) {
      return false;
    }
    return true;
  }));
}

}  // namespace pillion::test
