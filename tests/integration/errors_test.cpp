// What an operator sees when something must be mended first: one line, exit code 2, no secret.
#define PILLION_TEST_MAIN
#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>

#include "consumer_fixture.hpp"
#include "support/ports.hpp"

namespace pillion::test {
namespace {

/// A password that must never be seen again.
constexpr const char* kCanary = "c4n4ry-s3cr3t";

using Environment = std::map<std::string, std::string>;

struct Ended {
  std::optional<int> status;  // none: it was still running after ten seconds
  std::string output;         // stdout and stderr
};

support::ProcessOptions programOptions(const std::vector<std::string>& arguments,
                                       const Environment& environment) {
  support::ProcessOptions options;
  options.command = {PILLION_PROGRAM};
  options.command.insert(options.command.end(), arguments.begin(), arguments.end());
  options.withoutPrefixes = {"PG", "PILLION_"};
  options.environment = environment;
  options.output = Servers::instance().directory / (uniqueName("program") + ".log");
  return options;
}

Ended pillion(const std::vector<std::string>& arguments, const Environment& environment) {
  support::Process process(programOptions(arguments, environment));
  const auto status = process.waitFor(10s);
  if (!status) process.terminate();
  return {status, process.output()};
}

/// What a program prints when it succeeds.
std::string outputOf(const std::vector<std::string>& arguments, const Environment& environment) {
  const auto ended = pillion(arguments, environment);
  CAPTURE(ended.output);
  REQUIRE(ended.status == 0);
  return ended.output;
}

long linesIn(const std::string& text) {
  return std::ranges::count(text, '\n');
}

/// One line that holds all of `hints`, exit code 2, no stack, no secret.
void checkRefused(const std::vector<std::string>& arguments, const Environment& environment,
                  const std::vector<std::string>& hints) {
  const auto ended = pillion(arguments, environment);
  const std::string command = arguments[0];
  CAPTURE(command);
  CAPTURE(ended.output);
  CHECK(ended.status == 2);
  CHECK(linesIn(ended.output) == 1);
  CHECK(ended.output.starts_with("pillion: "));
  for (const std::string& hint : hints) CHECK(ended.output.find(hint) != std::string::npos);
  CHECK(ended.output.find(kCanary) == std::string::npos);
  CHECK(ended.output.find("terminate") == std::string::npos);
  CHECK(ended.output.find(".cpp") == std::string::npos);
}

/// The same of the library: start() throws E with one line, returned, that holds all of `hints`.
template <typename E>
std::string checkStartThrows(const ConsumerOptions& options,
                             const std::vector<std::string>& hints) {
  const LogCapture log;
  const auto consumer = journalConsumer(options, "refused");
  std::string message = "(nothing was thrown)";
  try {
    consumer->start();
  } catch (const E& error) {
    message = error.what();
    CHECK_FALSE(error.retryable());
  } catch (const std::exception& error) {
    FAIL_CHECK("another exception: " << error.what());
  }
  CAPTURE(message);
  CHECK(message != "(nothing was thrown)");
  CHECK(linesIn(message) == 0);
  for (const std::string& hint : hints) CHECK(message.find(hint) != std::string::npos);
  CHECK((message + log.text()).find(kCanary) == std::string::npos);
  consumer->stop();  // as a program would that goes on without it
  return message;
}

Environment environmentWith(const World& world, const std::string& name, const std::string& value) {
  auto environment = environmentFor(world.database, world.exchange);
  environment[name] = value;
  return environment;
}

/// A PostgreSQL URL that is refused, by every verb and by the library.
void checkDatabaseUrl(const std::string& url, const std::vector<std::string>& hints) {
  const World world;
  const auto environment = environmentWith(world, "PILLION_DATABASE_URL", url);
  for (const std::string verb : {"migrate", "status", "relay"}) {
    checkRefused({verb}, environment, hints);
  }
  auto options = world.consumerOptions();
  options.database.url = url;
  checkStartThrows<ConfigError>(options, hints);
  PublisherOptions publishing;
  publishing.database = options.database;
  const auto publisher = EventPublisher::create("publisher", publishing);
  CHECK_THROWS_AS(publisher->publish(numberedEvents(1)[0]), ConfigError);
}

/// A broker URL that is refused, by the relay and by the library.
void checkBrokerUrl(const std::string& url, const std::vector<std::string>& hints) {
  const World world;
  checkRefused({"relay"}, environmentWith(world, "PILLION_AMQP_URL", url), hints);
  auto options = world.consumerOptions();
  options.broker.url = url;
  checkStartThrows<ConfigError>(options, hints);
}

}  // namespace

TEST_CASE("an unknown PostgreSQL host is one line that names the variable") {
  checkDatabaseUrl(std::string("postgresql://pillion:") + kCanary + "@no-such-host.invalid/db",
                   {"no-such-host.invalid", "PILLION_DATABASE_URL"});
}

TEST_CASE("a wrong PostgreSQL password is one line without the password") {
  checkDatabaseUrl(Servers::pg().urlAs("pillion", kCanary),
                   {"password authentication failed", "PILLION_DATABASE_URL"});
}

TEST_CASE("a database that does not exist is one line that names it") {
  checkDatabaseUrl(Servers::pg().url("no_such_database"),
                   {"no_such_database", "PILLION_DATABASE_URL"});
}

TEST_CASE("an unparseable PostgreSQL URL is one line that shows the form and not the URL") {
  for (const std::string& url :
       {std::string("postgresql://pillion:") + kCanary + "@[broken/db",
        std::string("password='") + kCanary,
        std::string("postgresql://h/db?no_such_parameter=") + kCanary, std::string(kCanary)}) {
    checkDatabaseUrl(url, {"PILLION_DATABASE_URL", "postgresql://user:password@host"});
  }
}

TEST_CASE("a bad port in the PostgreSQL URL is one line and not an outage that is waited for") {
  checkDatabaseUrl(std::string("postgresql://pillion:") + kCanary + "@localhost:99999/db",
                   {"port", "PILLION_DATABASE_URL"});
}

TEST_CASE("a schema that is not migrated is one line that says pillion migrate") {
  World world;
  world.database.execute("drop schema pillion cascade");
  const auto environment = environmentFor(world.database, world.exchange);
  for (const std::string verb : {"status", "relay"}) {
    checkRefused({verb}, environment, {"pillion migrate", "'pillion'"});
  }
  checkStartThrows<SchemaError>(world.consumerOptions(), {"pillion migrate"});
  PublisherOptions publishing;
  publishing.database = world.database.options();
  const auto publisher = EventPublisher::create("publisher", publishing);
  CHECK_THROWS_AS(publisher->publish(numberedEvents(1)[0]), SchemaError);
}

TEST_CASE("a schema at an older version is one line that says pillion migrate") {
  const World world;
  world.database.execute(
      "delete from pillion.migration where version = (select max(version) from pillion.migration)");
  const auto environment = environmentFor(world.database, world.exchange);
  for (const std::string verb : {"status", "relay"}) {
    checkRefused({verb}, environment, {"version", "pillion migrate"});
  }
  checkStartThrows<SchemaError>(world.consumerOptions(), {"pillion migrate"});
}

TEST_CASE("a schema newer than the program is one line that says so, and nothing is changed") {
  const World world;
  world.database.execute(
      "insert into pillion.migration (version, name, checksum) values (99, 'future', 'f')");
  const auto environment = environmentFor(world.database, world.exchange);
  for (const std::string verb : {"migrate", "status", "relay"}) {
    checkRefused({verb}, environment, {"version 99", "newer", "upgrade"});
  }
  checkStartThrows<SchemaError>(world.consumerOptions(), {"newer"});
}

TEST_CASE("a migration with another checksum is one line that names it") {
  const World world;
  world.database.execute("update pillion.migration set checksum = 'edited' where version = 1");
  const auto environment = environmentFor(world.database, world.exchange);
  for (const std::string verb : {"migrate", "status", "relay"}) {
    checkRefused({verb}, environment, {"migration 1", "edited", "checksum"});
  }
  checkStartThrows<SchemaError>(world.consumerOptions(), {"checksum"});
}

TEST_CASE("a schema name that PostgreSQL cannot have is one line") {
  const World world;
  const auto environment = environmentWith(world, "PILLION_SCHEMA", std::string(64, 's'));
  for (const std::string verb : {"migrate", "status", "relay"}) {
    checkRefused({verb}, environment, {"64 bytes", "PILLION_SCHEMA"});
  }
}

TEST_CASE("an unparseable broker URL is one line that shows the form and not the URL") {
  for (const std::string& url :
       {std::string("http://guest:") + kCanary + "@localhost",
        std::string("amqp://guest:") + kCanary + "@localhost:port/",
        std::string("amqp://guest:") + kCanary + "%zz@localhost",
        std::string("amqp://guest:") + kCanary + "@localhost/?x=y", std::string(kCanary)}) {
    checkBrokerUrl(url, {"PILLION_AMQP_URL", "amqp://user:password@host"});
  }
}

TEST_CASE("an unknown broker host is one line that names the variable") {
  checkBrokerUrl(std::string("amqp://guest:") + kCanary + "@no-such-host.invalid",
                 {"no-such-host.invalid", "PILLION_AMQP_URL"});
}

TEST_CASE("a wrong broker password is one line without the password") {
  checkBrokerUrl(Servers::mq().url("guest", kCanary), {"login", "PILLION_AMQP_URL"});
}

TEST_CASE("a vhost that does not exist is one line that names it") {
  Servers::mq().addUser("known", kCanary, ".*", ".*", ".*");
  checkBrokerUrl(Servers::mq().url("known", kCanary) + "/no-such-vhost",
                 {"no-such-vhost", "PILLION_AMQP_URL"});
}

TEST_CASE("a broker user without the right to configure is one line that says what is missing") {
  Servers::mq().addUser("reader", kCanary, "^$", ".*", ".*");
  checkBrokerUrl(Servers::mq().url("reader", kCanary), {"reader", "permission"});
}

TEST_CASE("missing rights at the broker are not taken for a queue with other settings") {
  Servers::mq().addUser("reader", kCanary, "^$", ".*", ".*");
  const World world;
  declareOnly(world, "somebody");  // so that the exchange is there
  auto options = world.consumerOptions();
  options.broker.url = Servers::mq().url("reader", kCanary);
  const std::string message = checkStartThrows<ConfigError>(options, {"permission"});
  CAPTURE(message);
  CHECK(message.find("delete the queue") == std::string::npos);
}

TEST_CASE("a broker user without the right to read is refused at the start") {
  Servers::mq().addUser("writer", kCanary, ".*", ".*", "^$");
  const World world;
  auto options = world.consumerOptions();
  options.broker.url = Servers::mq().url("writer", kCanary);
  checkStartThrows<ConfigError>(options, {"writer", "permission"});
}

TEST_CASE("a user without the right to configure consumes when an operator owns the topology") {
  Servers::mq().addUser("reader", kCanary, "^$", ".*", ".*");
  const World world;
  declareOnly(world, "operated");
  auto options = world.consumerOptions();
  options.broker.url = Servers::mq().url("reader", kCanary);
  options.broker.declareTopology = false;
  const auto consumer = journalConsumer(options, "operated");
  consumer->start();
  send(world.exchange, numberedEvents(1)[0]);
  CHECK(eventually(20s, [&] { return world.journal() == 1; }));

  checkStartThrows<ConfigError>(options, {"refused.events", "declareTopology"});
}

TEST_CASE("what an operator has not made of the topology is named at the start") {
  const World world;
  auto options = world.consumerOptions();
  options.subscription = "partial";
  options.partitions = 2;
  {
    const auto consumer = journalConsumer(options, "refused");
    consumer->start();
  }
  options.broker.declareTopology = false;
  journalConsumer(options, "refused")->start();
  for (const std::string exchange :
       {"refused.partial.unkeyed", "refused.partial.partitions", world.exchange.c_str()}) {
    Servers::mq().deleteExchange(exchange);
    checkStartThrows<ConfigError>(options, {"'" + exchange + "'", "declareTopology"});
  }
}

TEST_CASE("a queue that exists with other settings is refused with what to do") {
  const World world;
  amqp::Connection connection(brokerOptions(world.exchange), "test");
  connection.declareQueue({.name = "refused.events"});
  checkStartThrows<ConfigError>(world.consumerOptions(),
                                {"refused.events", "inequivalent arg", "delete the queue"});
}

TEST_CASE("an exchange that exists with another type is refused with its name") {
  const World world;
  Servers::mq().eval(
      "rabbit_exchange:declare(rabbit_misc:r(<<\"/\">>, exchange, <<\"fanout-exchange\">>), "
      "fanout, "
      "true, false, false, [], <<\"test\">>), ok");
  auto options = world.consumerOptions();
  options.broker.exchange = "fanout-exchange";
  checkStartThrows<ConfigError>(options, {"fanout-exchange", "type"});
  checkRefused({"relay"}, environmentWith(world, "PILLION_EXCHANGE", "fanout-exchange"),
               {"fanout-exchange", "type"});
}

TEST_CASE("options out of range are a ConfigError before anything is connected") {
  const auto create = [](auto change) {
    ConsumerOptions options;
    change(options);
    return EventConsumer::create("service", {"#"}, options);
  };
  CHECK_THROWS_AS(create([](auto& o) { o.prefetch = 0; }), ConfigError);
  CHECK_THROWS_AS(create([](auto& o) { o.deliveryLimit = 0; }), ConfigError);
  CHECK_THROWS_AS(create([](auto& o) { o.retry.maxAttempts = 0; }), ConfigError);
  CHECK_THROWS_AS(create([](auto& o) { o.dedupeWindow = 23h; }), ConfigError);
  CHECK_THROWS_AS(create([](auto& o) { o.dedupeWindow = 481h; }), ConfigError);
  CHECK_THROWS_AS(create([](auto& o) { o.queue = std::string(251, 'q'); }), ConfigError);
  CHECK_THROWS_AS(create([](auto& o) { o.database.schema = std::string(64, 's'); }), ConfigError);
  CHECK_THROWS_AS(EventConsumer::create("service", {}), ConfigError);
  CHECK_THROWS_AS(EventConsumer::create("service", {""}), ConfigError);
}

TEST_CASE("a handler that is registered after start() is a ConfigError") {
  const World world;
  const auto consumer = journalConsumer(world, "late-handler");
  consumer->start();
  CHECK_THROWS_AS(consumer->onEvent("late", [](const Event&) {}), ConfigError);
}

TEST_CASE("a server that is away is exit code 1 and not 2") {
  const World world;
  const std::string nobody = Servers::pg().urlThrough(support::freePort(), world.database.name());
  for (const std::string verb : {"migrate", "status"}) {
    const auto ended = pillion({verb}, environmentWith(world, "PILLION_DATABASE_URL", nobody));
    CAPTURE(ended.output);
    CHECK(ended.status == 1);
    CHECK(linesIn(ended.output) == 1);
    CHECK(ended.output.find(support::PostgresServer::kPassword) == std::string::npos);
  }
}

namespace {

/// A limit on connections, which is an operator's `alter …` away from being none. It does not bind
/// superusers, so the programs are of a role that has the rights of one and is none.
void checkConnectionLimit(const std::string& what, const std::string& hint) {
  const std::string role = uniqueName("limited");
  const World world;
  const auto alter = [&](const std::string& limit) {
    world.database.execute("alter " + what + " \"" +
                           (what == "role" ? role : world.database.name()) +
                           "\" connection limit " + limit);
  };
  world.database.execute("create role \"" + role + "\" login password '" + kCanary + "' in role " +
                         support::PostgresServer::kUser);
  const std::string url = Servers::pg().urlAs(role, kCanary, world.database.name());
  alter("0");
  const auto ended = pillion({"status"}, environmentWith(world, "PILLION_DATABASE_URL", url));
  CAPTURE(ended.output);
  CHECK(ended.status == 1);
  CHECK(ended.output.find(hint) != std::string::npos);

  declareOnly(world, "limited");
  const LogCapture log;
  auto options = world.consumerOptions();
  options.database.url = url;
  const auto consumer = journalConsumer(options, "limited");
  REQUIRE_NOTHROW(consumer->start());
  CHECK(eventually(20s, [&] { return log.count(hint) > 0; }));
  alter("-1");
  CHECK(eventually(20s, [&] { return log.count(" goes on") == 1; }));  // all its threads are back
  const auto events = numberedEvents(2);
  send(world.exchange, events[0]);
  CHECK(eventually(20s, [&] { return world.journal() == 1; }));

  const auto seen = log.count(" waits: ");
  alter("0");
  world.database.execute(
      "select pg_terminate_backend(pid) from pg_stat_activity where usename = '" + role + "'");
  send(world.exchange, events[1]);
  CHECK(eventually(20s, [&] { return log.count(" waits: ") > seen; }));
  CHECK(world.journal() == 1);
  alter("-1");
  CHECK(eventually(20s, [&] { return world.journal() == 2; }));
  CHECK(consumer->stats().deadLettered == 0);
}

}  // namespace

TEST_CASE("a role with no connection left is waited for, at the start and later") {
  checkConnectionLimit("role", "too many connections for role");
}

TEST_CASE("a database with no connection left is waited for, at the start and later") {
  checkConnectionLimit("database", "too many connections for database");
}

TEST_CASE("a wrong command line is exit code 2 and help is 0") {
  const std::string help = outputOf({"--help"}, {});
  for (const std::string word : {"relay", "migrate", "status", "PILLION_DATABASE_URL",
                                 "PILLION_AMQP_URL", "PILLION_SCHEMA", "PILLION_EXCHANGE"}) {
    CHECK(help.find(word) != std::string::npos);
  }
  for (const std::string verb : {"relay", "migrate", "status"}) {
    CHECK(outputOf({verb, "--help"}, {}).find("--database-url") != std::string::npos);
  }
  CHECK(outputOf({"--version"}, {}).starts_with("pillion "));
  for (const std::vector<std::string>& wrong :
       {std::vector<std::string>{}, std::vector<std::string>{"no-such-verb"},
        std::vector<std::string>{"status", "--no-such-flag"},
        std::vector<std::string>{"relay", "--window", "many"},
        std::vector<std::string>{"relay", "--window", "0"}}) {
    CHECK(pillion(wrong, {}).status == 2);
  }
}

namespace {

/// An empty database and the environment that points to it.
struct Empty {
  TestDatabase database{"pillion", false};
  Environment environment{{"PILLION_DATABASE_URL", database.url()}};

  [[nodiscard]] std::string versions() const {
    return database.query(
        "select string_agg(version || ' ' || name || ' ' || checksum, ', ' "
        "order by version) from pillion.migration");
  }
};

/// The schema as SQL, without what newer pg_dumps put around it at random.
std::string dump(const TestDatabase& database) {
  const auto dumped =
      support::run({.command = {"pg_dump", "--schema-only", "--no-comments", database.url()}});
  REQUIRE(dumped.status == 0);
  std::istringstream lines(dumped.output);
  std::string text;
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with("\\") && !line.starts_with("--")) text += line + "\n";
  }
  return text;
}

void runScript(const TestDatabase& database, const std::string& script) {
  support::ProcessOptions options;
  options.command = {"psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", database.url()};
  options.input = script;
  options.output = Servers::instance().directory / (uniqueName("psql") + ".log");
  const auto done = support::run(options);
  CAPTURE(done.output);
  REQUIRE(done.status == 0);
}

}  // namespace

TEST_CASE("migrate applies every file once and has nothing to do the second time") {
  const Empty empty;
  const std::string first = outputOf({"migrate"}, empty.environment);
  CHECK(first.find("applied 1 outbox") != std::string::npos);
  CHECK(linesIn(first) == static_cast<long>(Migrator::known().size()));
  const std::string schema = dump(empty.database);
  CHECK(outputOf({"migrate"}, empty.environment).find("nothing to do") != std::string::npos);
  CHECK(dump(empty.database) == schema);
  CHECK(outputOf({"status"}, empty.environment).find("pending") != std::string::npos);
}

TEST_CASE("ten programs that migrate an empty database at once all succeed and one does it") {
  const Empty empty;
  std::vector<support::Process> programs;
  for (int i = 0; i < 10; ++i) {
    programs.emplace_back(programOptions({"migrate"}, empty.environment));
  }
  int applied = 0;
  for (const auto& program : programs) {
    const auto status = program.waitFor(60s);
    CAPTURE(program.output());
    CHECK(status == 0);
    if (program.output().find("applied 1 ") != std::string::npos) ++applied;
  }
  CHECK(applied == 1);
  CHECK(empty.database.count("select count(*) from pillion.migration") ==
        static_cast<long>(Migrator::known().size()));
  CHECK(outputOf({"status"}, empty.environment).find("pending") != std::string::npos);
}

TEST_CASE("what migrate --print prints makes the same schema in psql as migrate itself") {
  for (const std::string schema : {"pillion", "My \"own\" schema's"}) {
    CAPTURE(schema);
    const TestDatabase migrated(schema);
    const TestDatabase scripted(schema, false);
    const std::string script = outputOf({"migrate", "--print"}, {{"PILLION_SCHEMA", schema}});
    CHECK(script == Migrator(scripted.options()).script());
    runScript(scripted, script);
    CHECK(dump(scripted) == dump(migrated));
    CHECK(Migrator(scripted.options()).migrate().empty());
    CHECK(readOutboxStatus(scripted.options()).lanes.size() == 64);
  }
}

TEST_CASE("a migration that fails leaves nothing behind") {
  const Empty empty;
  empty.database.execute("create schema pillion; create table pillion.inbox (other int)");
  const auto ended = pillion({"migrate"}, empty.environment);
  CHECK(ended.status == 2);
  CHECK(linesIn(ended.output) == 1);
  CHECK(empty.database.query("select string_agg(relname, ' ') from pg_class where relnamespace = "
                             "'pillion'::regnamespace") == "inbox");
}

TEST_CASE("status shows what is pending and who holds the lanes, as text and as JSON") {
  const World world;
  declareOnly(world, "status");
  PublisherOptions options;
  options.database = world.database.options();
  const auto publisher = EventPublisher::create("publisher", options);
  for (const Event& event : numberedEvents(3)) publisher->publish(event);
  const auto environment = environmentFor(world.database, world.exchange);
  const auto status = [&] {
    return nlohmann::json::parse(outputOf({"status", "--json"}, environment));
  };
  const auto before = status();
  CHECK(before.at("pending") == 3);
  CHECK(before.at("pending_is_minimum") == false);
  CHECK(before.at("oldest_ms").get<long>() >= 0);
  CHECK(before.at("parked") == 0);
  CHECK(before.at("oldest_parked_ms").is_null());
  REQUIRE(before.at("lanes").size() == 64);
  CHECK(before.at("lanes")[0].at("holder") == "");
  std::string text = outputOf({"status"}, environment);
  CHECK(text.find("pending  3, oldest") != std::string::npos);
  CHECK(text.find("nobody") != std::string::npos);

  const auto relay = startRelayProcess(world.database, world.exchange, "", {"--name", "the relay"});
  CHECK(eventually(20s, [&] { return status().at("pending") == 0; }));
  CHECK(status().at("lanes")[63].at("holder") == "the relay");
  CHECK(status().at("oldest_ms").is_null());
  text = outputOf({"status"}, environment);
  CHECK(text.find("the relay (token ") != std::string::npos);
  CHECK(text.find("0-63") != std::string::npos);
}

TEST_CASE("schema names with quotes, spaces, upper case and 63 bytes work end to end") {
  for (const std::string& schema :
       {std::string("My \"own\" schema"), std::string("UPPER"), std::string("it's"),
        std::string("Lager größe"), std::string("a.b; drop table journal; --"),
        std::string(63, 'n')}) {
    CAPTURE(schema);
    const World world(schema);
    const std::string service = uniqueName("schema");
    const auto consumer = journalConsumer(world, service);
    consumer->start();
    const auto relay = startRelayProcess(world.database, world.exchange);
    PublisherOptions options;
    options.database = world.database.options();
    const auto publisher = EventPublisher::create("publisher", options);
    const auto events = numberedEvents(21);
    pqxx::connection connection(world.database.url());
    pqxx::work tx{connection};
    publisher->publish(tx, events);
    tx.commit();
    publisher->publish(numberedEvents(1)[0]);
    CHECK(eventually(20s, [&] { return world.journal() == 22; }));
    CHECK(eventually(20s, [&] { return drained(world.database); }));
    CHECK(world.inbox() == 22);
    CHECK(relay.terminate() == 0);
  }
}

}  // namespace pillion::test
