// Starts, stops, kills and restarts the private servers and leaves nothing behind. It stands alone:
// when it fails, no other test that needs a server can be trusted.

#include <arpa/inet.h>
#include <libpq-fe.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "support/eventually.hpp"
#include "support/ports.hpp"
#include "support/postgres_server.hpp"
#include "support/process.hpp"
#include "support/process_table.hpp"
#include "support/rabbit_server.hpp"
#include "support/tcp_gate.hpp"
#include "support/temporary_directory.hpp"

using namespace pillion::support;
using namespace std::chrono_literals;

namespace {

#define REQUIRE(condition) require((condition), #condition, __LINE__)

void require(bool condition, const char* text, int line) {
  if (!condition) throw std::runtime_error("line " + std::to_string(line) + ": " + text);
}

template <typename Action>
bool throws(Action action) {
  try {
    action();
  } catch (const std::exception&) {
    return true;
  }
  return false;
}

template <typename Action>
void timed(const char* what, Action action) {
  const auto begin = std::chrono::steady_clock::now();
  action();
  const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - begin;
  std::printf("%-36s %6.3f s\n", what, spent.count());
  std::fflush(stdout);
}

// A client that speaks a little AMQP: enough to see whether bytes pass.
class RawClient {
 public:
  explicit RawClient(int port) : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<in_port_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  }
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;
  ~RawClient() { close(fd_); }

  bool connected() const { return connected_; }
  void greet() const { REQUIRE(send(fd_, "AMQP\0\0\x09\x01", 8, MSG_NOSIGNAL) == 8); }
  // The bytes that arrived within the limit, 0 at the end of the stream, or -errno.
  long receive(std::chrono::milliseconds limit) const {
    const timeval patience{limit.count() / 1000, limit.count() % 1000 * 1000};
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    char buffer[4096];
    const auto count = recv(fd_, buffer, sizeof buffer, 0);
    return count < 0 ? -errno : count;
  }

 private:
  int fd_;
  bool connected_ = false;
};

void checkProcesses() {
  REQUIRE(run({.command = {"sh", "-c", "echo out; echo err >&2; exit 3"}}).status == 3);
  REQUIRE(run({.command = {"sh", "-c", "echo out; echo err >&2"}}).output == "out\nerr\n");
  REQUIRE(run({.command = {"cat"}, .input = "text"}).output == "text");
  REQUIRE(run({.command = {"pwd"}, .directory = "/"}).output == "/\n");
  REQUIRE(run({.command = {"sh", "-c", "echo $A"}, .environment = {{"A", "b"}}}).output == "b\n");
  REQUIRE(run({.command = {"sh", "-c", "kill -9 $$"}}).status == 128 + SIGKILL);
  REQUIRE(throws([] { Process({.command = {"/nonexistent/program"}}); }));
  REQUIRE(throws([] { Process({.command = {"no-such-program"}}); }));
  REQUIRE(throws([] { Process({.command = {"true"}, .directory = "/nonexistent"}); }));
  REQUIRE(throws([] { run({.command = {"sleep", "60"}}, 50ms); }));
  if (const auto user = unprivilegedUser()) {
    REQUIRE(run({.command = {"id", "-un"}, .runAs = user}).output == user->name + "\n");
  }

  // A child outlives the thread that asked for it, and moving keeps it.
  std::optional<Process> sleeper;
  std::thread([&] { sleeper.emplace(ProcessOptions{.command = {"sleep", "60"}}); }).join();
  Process moved = std::move(*sleeper);
  REQUIRE(!moved.waitFor(50ms));
  REQUIRE(moved.terminate() == 128 + SIGTERM);
  REQUIRE(!moved.running());

  // Orphans are left to us, and a child that a Process waits for is not taken from it.
  const Process brief({.command = {"sh", "-c", "exit 7"}});
  REQUIRE(run({.command = {"setsid", "-f", "true"}}).status == 0);
  REQUIRE(eventually(5s, [] {
    reapOrphans();
    return descendantsOf(getpid()).size() == 1;
  }));
  REQUIRE(brief.wait() == 7);

  // The whole group goes with its leader.
  Process shell({.command = {"sh", "-c", "sleep 60 & wait"}});
  REQUIRE(eventually(5s, [&] { return membersOfGroup(shell.pid()).size() == 2; }));
  const auto members = membersOfGroup(shell.pid());
  shell.signal(SIGKILL);
  REQUIRE(shell.wait() == 128 + SIGKILL);
  REQUIRE(waitUntilGone(members, 5s));
}

void checkPorts() {
  std::set<int> ports;
  for (int i = 0; i < 50; ++i) ports.insert(freePort());
  REQUIRE(ports.size() == 50);
  REQUIRE(!accepts(*ports.begin()));
}

void checkPostgres(PostgresServer& server) {
  server.createDatabase("odd \"name\"/%");
  server.execute("odd \"name\"/%", "CREATE TABLE t (n int); INSERT INTO t VALUES (1)");
  REQUIRE(server.query("odd \"name\"/%", "SELECT n FROM t") == "1");
  REQUIRE(server.query("postgres", "SHOW fsync") == "on");
  REQUIRE(server.query("postgres", "SHOW shared_buffers") == "256MB");
  REQUIRE(server.query("postgres", "SHOW work_mem") == "8MB");
  REQUIRE(throws([&] { server.query("postgres", "SELECT 1 / 0"); }));
  REQUIRE(throws([&] { server.query("postgres", "SELECT 1 WHERE false"); }));
  REQUIRE(server.log().find("division by zero") != std::string::npos);
  timed("postgres stop", [&] { server.stop(); });
  REQUIRE(!server.running() && !accepts(server.port()));
  timed("postgres start", [&] { server.start(); });

  const auto first = server.pid();
  // A backend that is busy does not notice by itself that its postmaster is gone.
  PGconn* busy = PQconnectdb(server.url().c_str());
  PQsendQuery(busy, "SELECT count(*) FROM generate_series(1, 1000000000)");
  timed("postgres kill, busy", [&] { server.kill(); });
  PQfinish(busy);
  timed("postgres start after kill", [&] { server.start(); });
  REQUIRE(server.pid() != first);
  REQUIRE(server.query("odd \"name\"/%", "SELECT n FROM t") == "1");
}

void declare(RabbitServer& server, const std::string& name, const std::string& type) {
  std::string expression =
      "{new, _} = rabbit_amqqueue:declare(rabbit_misc:r(<<\"/\">>, queue, <<\"";
  expression.append(name).append("\">>), true, false, [{<<\"x-queue-type\">>, longstr, <<\"");
  expression.append(type).append("\">>}], none, <<\"test\">>), ok");
  server.eval(expression);
}

void checkRabbit(RabbitServer& server) {
  REQUIRE(server.eval("1 + 1") == "2");
  REQUIRE(throws([&] { server.eval("1 / 0"); }));
  REQUIRE(throws([&] { server.queueDepth("none"); }));
  timed("rabbit eval", [&] { server.eval("ok"); });
  timed("rabbit addUser", [&] { server.addUser("app", "p\"w", "^$", ".*", ".*"); });
  server.addUser("app", "other", "^$", ".*", ".*");
  timed("rabbitmqctl", [&] {
    REQUIRE(server.ctl({"authenticate_user", "app", "other"}).find("Success") != std::string::npos);
  });
  REQUIRE(throws([&] { server.ctl({"authenticate_user", "app", "wrong"}); }));

  for (const std::string type : {"classic", "quorum"}) {
    const std::string name = "q." + type;
    declare(server, name, type);
    REQUIRE(server.queueExists(name));
    timed("rabbit queueDepth", [&] { REQUIRE(server.queueDepth(name) == 0); });
    server.deleteQueue(name);
    REQUIRE(!server.queueExists(name));
  }
  timed("rabbit memory alarm on", [&] { server.setMemoryAlarm(true); });
  std::this_thread::sleep_for(1500ms);  // the memory monitor runs each second
  REQUIRE(server.eval("length(rabbit_alarm:get_alarms())") == "1");
  server.setMemoryAlarm(false);
  REQUIRE(server.eval("rabbit_alarm:get_alarms()") == "[]");
  timed("rabbit restart", [&] { server.restart(); });
  timed("rabbit kill", [&] { server.kill(); });
  REQUIRE(!server.running() && !accepts(server.port()));
  timed("rabbit start after kill", [&] { server.start(); });
  REQUIRE(server.eval("node()") == "pillion@localhost");
}

void checkGate(RabbitServer& server) {
  TcpGate gate(server.port());
  RawClient client(gate.port());
  client.greet();
  REQUIRE(client.receive(5s) > 0);
  REQUIRE(gate.connections() == 1);

  gate.refuse();
  REQUIRE(!RawClient(gate.port()).connected());
  gate.pass();
  gate.cut();
  REQUIRE(client.receive(5s) == -ECONNRESET);
  REQUIRE(gate.connections() == 0);

  gate.stall();
  RawClient stalled(gate.port());
  REQUIRE(stalled.connected());
  stalled.greet();
  REQUIRE(stalled.receive(200ms) == -EAGAIN);
  gate.pass();
  REQUIRE(stalled.receive(5s) > 0);

  gate.delay(150ms);
  const auto begin = std::chrono::steady_clock::now();
  RawClient slow(gate.port());
  slow.greet();
  REQUIRE(slow.receive(5s) > 0);
  const auto spent = std::chrono::steady_clock::now() - begin;
  REQUIRE(spent >= 300ms && spent < 2s);
  gate.pass();

  server.closeAllConnections();
  REQUIRE(eventually(15s, [&] { return stalled.receive(5s) <= 0; }));
  server.kill();
  RawClient orphan(gate.port());
  REQUIRE(orphan.receive(5s) == -ECONNRESET);
  server.start();
}

void checkGateVolume(PostgresServer& server) {
  TcpGate gate(server.port());
  PGconn* connection = PQconnectdb(gate.port() > 0 ? server.urlThrough(gate.port()).c_str() : "");
  REQUIRE(PQstatus(connection) == CONNECTION_OK);
  PGresult* result = PQexec(connection, "SELECT repeat('x', 20000000)");
  REQUIRE(PQgetlength(result, 0, 0) == 20000000);
  PQclear(result);
  PQfinish(connection);
  REQUIRE(eventually(5s, [&] { return gate.connections() == 0; }));
}

// All processes that the servers have, so that their end can be checked.
std::vector<pid_t> allChildren() {
  return descendantsOf(getpid());
}

void checkAll() {
  std::vector<pid_t> children;
  std::vector<int> ports;
  const TemporaryDirectory directory;
  {
    std::optional<PostgresServer> postgres;
    std::optional<RabbitServer> rabbit;
    timed("postgres initdb and start", [&] {
      postgres.emplace(directory / "pg", PostgresOptions{.settings = {{"work_mem", "8MB"}}});
    });
    timed("rabbit first start", [&] { rabbit.emplace(directory / "mq"); });
    checkPostgres(*postgres);
    checkRabbit(*rabbit);
    checkGate(*rabbit);
    checkGateVolume(*postgres);
    children = allChildren();
    ports = {postgres->port(), rabbit->port()};
    REQUIRE(children.size() > 6);
    timed("postgres destructor", [&] { postgres.reset(); });
    timed("rabbit destructor", [&] { rabbit.reset(); });
  }
  REQUIRE(waitUntilGone(children, 5s));
  reapOrphans();
  REQUIRE(allChildren().empty());
  for (const int port : ports) REQUIRE(!accepts(port));
}

}  // namespace

int main() try {
  becomeSubreaper();
  timed("processes", checkProcesses);
  timed("ports", checkPorts);
  timed("all", checkAll);
  std::printf("ok\n");
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "failed: %s\n", error.what());
  return 1;
}
