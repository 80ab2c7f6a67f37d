#include <spdlog/fmt/fmt.h>

#include "commands.hpp"
#include "interruption.hpp"
#include "log_stream.hpp"

namespace pillion::warehouse {
namespace {

std::string psqlCommand(const Fleet& fleet, const std::string& service) {
  return fmt::format("  psql \"{}\" -c \"SELECT * FROM product_cache WHERE sku='TEST-001'\"\n",
                     fleet.databaseUrl(service));
}

std::string howToTry(Fleet& fleet) {
  std::string text = "\nThe warehouse is open. In another terminal:\n\n";
  text += fmt::format("  curl -X POST http://localhost:{}/api/v1/products ", fleet.restPort());
  text += R"(-H "Content-Type: application/json" )";
  text += R"(-d '{"sku": "TEST-001", "name": "Test Product"}')";
  text += '\n';
  text += psqlCommand(fleet, "inventory-service");
  text += psqlCommand(fleet, "order-service");
  text += fmt::format("  {}\n\n", fleet.statusCommand());
  for (const auto& member : fleet.members()) {
    const auto place = member->port == 0 ? std::string("carries events to RabbitMQ")
                                         : fmt::format("http://localhost:{}", member->port);
    text += fmt::format("  {:<20} pid {:<8} {:<28} {}\n", member->name, member->process->pid(),
                        place, member->log.string());
  }
  text += "\nKill any of these: it is started again. Ctrl-C stops everything.\n";
  return text;
}

std::vector<LogStream::Source> sources(Fleet& fleet) {
  std::vector<LogStream::Source> list;
  for (const auto& member : fleet.members()) list.push_back({member->name, member->log});
  return list;
}

}  // namespace

int up(const FleetOptions& options, Terminal& terminal) {
  Fleet fleet(options, terminal);
  try {
    fleet.start();
    terminal.line(howToTry(fleet));
    const LogStream logs(sources(fleet), terminal);
    try {
      for (;;) {
        waitFor(std::chrono::seconds(1), [&] {
          fleet.supervise();
          return false;
        });
      }
    } catch (const Interrupted&) {
      terminal.step("stopping everything");
      fleet.stop();
    }
    return 0;
  } catch (const Interrupted&) {
    return 0;  // before everything was up
  } catch (const std::exception& error) {
    fleet.keepFolder();
    terminal.line(fleet.logTails());
    terminal.step(fmt::format("FAILED: {}; everything is kept in {}", error.what(),
                              fleet.logFolder().parent_path().string()));
    return 1;
  }
}

}  // namespace pillion::warehouse
