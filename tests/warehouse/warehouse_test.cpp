// `warehouse up` as a user meets it: the printed commands are run as they are printed.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
#include <httplib.h>

#include <algorithm>
#include <csignal>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "support/eventually.hpp"
#include "support/ports.hpp"
#include "support/process.hpp"
#include "support/process_table.hpp"
#include "support/temporary_directory.hpp"

namespace {

using namespace pillion::support;
using std::chrono::seconds;

std::vector<std::string> linesOf(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> lines;
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

RunResult shell(const std::string& command) {
  ProcessOptions options;
  options.command = {"sh", "-c", command};
  return run(options);
}

// `warehouse up` on free ports, in a folder of the test's own.
class OpenWarehouse {
 public:
  explicit OpenWarehouse(const std::vector<std::string>& arguments = {}) {
    for (int& port : ports_) port = freePort();
    ProcessOptions options;
    options.command = {WAREHOUSE_PROGRAM, "up", "--ports",
                       std::to_string(ports_[0]) + "," + std::to_string(ports_[1]) + "," +
                           std::to_string(ports_[2])};
    options.command.insert(options.command.end(), arguments.begin(), arguments.end());
    options.environment = {{"TMPDIR", folder_.path()}};
    options.output = scratch_ / "output";
    process_.emplace(options);
    const bool open = eventually(seconds(90), [&] {
      return !process_->running() || output().find("Ctrl-C stops everything") != std::string::npos;
    });
    INFO(output());
    REQUIRE(open);
    REQUIRE(process_->running());
  }

  std::string output() const { return process_->output(); }
  int port(std::size_t service) const { return ports_[service]; }

  bool showsLine(const std::string& source, const std::string& text) const {
    const auto lines = linesOf(output());
    return std::any_of(lines.begin(), lines.end(), [&](const std::string& line) {
      return line.starts_with(source + " ") && line.ends_with(text);
    });
  }

  // The indented line that begins with `start` and holds `part`, as it was printed.
  std::string printedCommand(const std::string& start, const std::string& part = "") const {
    for (const auto& line : linesOf(output())) {
      if (line.starts_with("  " + start) && line.find(part) != std::string::npos) return line;
    }
    FAIL("no line with " << start << " and " << part << " in: " << output());
    return {};
  }

  // One value from a service's database, by the URL in the printed psql command.
  std::string query(const std::string& database, const std::string& sql) const {
    const auto command = printedCommand("psql", database);
    const auto url = command.substr(0, command.find(" -c "));
    auto text = shell(url + " -Atc \"" + sql + "\"").output;
    while (text.ends_with('\n')) text.pop_back();
    return text;
  }

  // The REST ports of all instances of a service.
  std::vector<int> instances(const std::string& service) const {
    std::vector<int> found;
    const std::string mark = "http://localhost:";
    for (const auto& line : linesOf(output())) {
      const auto at = line.find(mark);
      if (!line.starts_with("  " + service) || at == std::string::npos) continue;
      found.push_back(std::stoi(line.substr(at + mark.size())));
    }
    return found;
  }

  // Ctrl-C; then nothing may be left, neither a process nor a file.
  void stop() {
    const auto processes = descendantsOf(process_->pid());
    CHECK(processes.size() >= 6);
    process_->signal(SIGINT);
    const auto status = process_->waitFor(seconds(40));
    INFO(output());
    REQUIRE(status.has_value());
    CHECK(*status == 0);
    CHECK(waitUntilGone(processes, seconds(5)));
    CHECK(std::filesystem::is_empty(folder_.path()));
  }

 private:
  TemporaryDirectory scratch_;
  TemporaryDirectory folder_;
  int ports_[3] = {};
  std::optional<Process> process_;
};

std::uint64_t applied(int port) {
  httplib::Client client("127.0.0.1", port);
  const auto answer = client.Get("/api/v1/stats");
  REQUIRE(answer);
  return nlohmann::json::parse(answer->body).at("applied").get<std::uint64_t>();
}

void createProducts(int port, int count) {
  httplib::Client client("127.0.0.1", port);
  client.set_keep_alive(true);
  for (int i = 0; i < count; ++i) {
    const nlohmann::json product = {{"sku", "SKU-" + std::to_string(i)}, {"name", "a product"}};
    const auto answer = client.Post("/api/v1/products", product.dump(), "application/json");
    REQUIRE(answer);
    REQUIRE(answer->status == 201);
  }
}

}  // namespace

TEST_CASE("one curl becomes one row in both databases, and Ctrl-C leaves nothing behind") {
  OpenWarehouse warehouse;
  std::string command =
      R"(curl -X POST http://localhost:8081/api/v1/products -H "Content-Type: application/json" )"
      R"(-d '{"sku": "TEST-001", "name": "Test Product"}')";
  command.replace(command.find("8081"), 4, std::to_string(warehouse.port(0)));
  CHECK(warehouse.printedCommand("curl") == "  " + command);

  const auto created = shell(command);
  CHECK(created.status == 0);
  CHECK(created.output.find(R"({"name":"Test Product","sku":"TEST-001","version":1})") !=
        std::string::npos);

  for (const std::string service : {"inventory", "order"}) {
    CAPTURE(service);
    CHECK(eventually(seconds(20), [&] {
      return warehouse.showsLine(service + "-service", "product.created sku=TEST-001");
    }));
    const auto psql = warehouse.printedCommand("psql", service + "_db");
    CHECK(eventually(seconds(5),
                     [&] { return shell(psql).output.find("(1 row)") != std::string::npos; }));
    CHECK(warehouse.query(service + "_db", "SELECT sku, name, version FROM product_cache") ==
          "TEST-001|Test Product|1");
  }
  const auto again = shell(command + " -s -o /dev/null -w '%{http_code}'");
  CHECK(again.output.ends_with("409"));
  CHECK(shell(warehouse.printedCommand("PILLION_DATABASE_URL")).status == 0);
  warehouse.stop();
}

TEST_CASE("three instances share one queue and every product lands once") {
  OpenWarehouse warehouse({"--scale", "inventory-service=3"});
  const auto instances = warehouse.instances("inventory-service");
  CHECK(instances.size() == 3);
  createProducts(warehouse.port(0), 200);
  for (const std::string database : {"inventory_db", "order_db"}) {
    CAPTURE(database);
    CHECK(eventually(seconds(30), [&] {
      return warehouse.query(database, "SELECT count(*) FROM product_cache") == "200";
    }));
    CHECK(warehouse.query(database,
                          "SELECT sum(events_applied), max(events_applied) "
                          "FROM product_cache") == "200|1");
  }
  CHECK(eventually(seconds(5), [&] {
    std::uint64_t sum = 0;
    for (const int port : instances) sum += applied(port);
    return sum == 200;
  }));
  warehouse.stop();
}

TEST_CASE("a port in use and bad arguments are one line that says so, and status 2") {
  httplib::Server server;
  server.set_socket_options([](int) {});
  const int taken = freePort();
  REQUIRE(server.bind_to_port("127.0.0.1", taken));
  const auto up = [](const std::string& arguments) {
    return shell(std::string(WAREHOUSE_PROGRAM) + " up " + arguments);
  };

  auto result = up("--ports " + std::to_string(taken) + "," + std::to_string(freePort()) + ",1");
  CHECK(result.status == 2);
  CHECK(linesOf(result.output).size() == 1);
  CHECK(result.output.find("port " + std::to_string(taken) + " is in use") != std::string::npos);

  for (const std::string arguments : {"--ports 8081,8082", "--ports 8081,8082,x",
                                      "--scale inventory-service=0", "--scale fruit-service=3"}) {
    CAPTURE(arguments);
    result = up(arguments);
    CHECK(result.status == 2);
    CHECK(linesOf(result.output).size() == 1);
  }

  result = shell("PILLION_DATABASE_URL=mysql://localhost/ " + std::string(WAREHOUSE_SERVICES) +
                 "/product-service");
  CHECK(result.status == 2);
  CHECK(linesOf(result.output).size() == 1);
}
