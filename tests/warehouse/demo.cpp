#include <spdlog/fmt/fmt.h>

#include <csignal>

#include "audit.hpp"
#include "commands.hpp"
#include "interruption.hpp"
#include "traffic.hpp"

namespace pillion::warehouse {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Clock = std::chrono::steady_clock;

constexpr auto kArrivalLimit = seconds(60);

double secondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Waits for a share of the traffic, and for as long as that takes: it ends when the traffic does.
void awaitShare(const Traffic& traffic, int percent) {
  while (!waitFor(seconds(1), [&] {
    return traffic.succeeded() * 100 >= traffic.planned() * percent || traffic.finished();
  })) {
  }
}

void killRelay(Fleet& fleet, const Traffic& traffic, Terminal& terminal) {
  const auto shares = fleet.lanesOfRelays();
  if (shares.empty()) throw std::runtime_error("no relay works");
  const auto& [victim, lanes] = *shares.begin();
  const auto pid = victim->process->pid();
  victim->process->signal(SIGKILL);
  victim->process->wait();
  const auto killed = Clock::now();
  terminal.step(fmt::format("{} killed with SIGKILL (pid {}, {} lanes) after {} commits",
                            victim->name, pid, lanes, traffic.succeeded()));
  if (!waitFor(seconds(20), [&] { return fleet.relaysHoldAllLanes(); })) {
    throw std::runtime_error("no relay took the lanes over within 20 s");
  }
  terminal.step(fmt::format("its lanes are taken over, {:.2f} s later", secondsSince(killed)));
  const auto& fresh = fleet.addRelay();
  terminal.step(
      fmt::format("{} started (pid {}), to share the lanes", fresh.name, fresh.process->pid()));
}

void restartBroker(Fleet& fleet, const Traffic& traffic, Terminal& terminal) {
  const int before = traffic.succeeded();
  const auto killed = Clock::now();
  const auto pid = fleet.rabbit().pid();
  fleet.rabbit().kill();
  terminal.step(fmt::format("RabbitMQ killed with SIGKILL (pid {}) after {} commits", pid, before));
  fleet.rabbit().start();
  terminal.step(fmt::format("RabbitMQ is back after {:.1f} s; {} changes were committed meanwhile",
                            secondsSince(killed), traffic.succeeded() - before));
}

// Everything has arrived when the outbox and both queues are empty; then the tables may be judged.
void awaitArrival(const Fleet& fleet, Terminal& terminal) {
  auto lastShown = Clock::now();
  std::string state;
  const auto arrived = [&] {
    const auto status = fleet.outboxStatus();
    const auto waiting = status.pending + status.parked;
    const long inventory = fleet.queueDepth("inventory-service");
    const long order = fleet.queueDepth("order-service");
    state =
        fmt::format("{} pending in the outbox, {} and {} in the queues", waiting, inventory, order);
    if (secondsSince(lastShown) >= 1) {
      lastShown = Clock::now();
      terminal.step(state);
    }
    return waiting == 0 && inventory == 0 && order == 0;
  };
  if (!waitFor(kArrivalLimit, arrived)) {
    throw std::runtime_error("not everything arrived within 60 s: " + state);
  }
}

bool play(const DemoOptions& options, Fleet& fleet, Terminal& terminal) {
  fleet.start();
  TrafficOptions trafficOptions;
  trafficOptions.port = fleet.restPort();
  trafficOptions.products = options.products;
  const Traffic traffic(trafficOptions);
  terminal.step(fmt::format("{} clients create, change and delete {} products: {} requests",
                            trafficOptions.clients, options.products, traffic.planned()));
  awaitShare(traffic, 25);
  killRelay(fleet, traffic, terminal);
  awaitShare(traffic, 50);
  restartBroker(fleet, traffic, terminal);
  awaitShare(traffic, 100);
  if (!traffic.problem().empty()) {
    throw std::runtime_error("a request failed: " + traffic.problem());
  }
  terminal.step(fmt::format("all {} requests succeeded", traffic.succeeded()));
  awaitArrival(fleet, terminal);
  const auto result = audit(fleet);
  terminal.step("everything has arrived\n");
  terminal.line(result.table());
  const bool clean = result.clean(traffic.succeeded());
  if (!clean) {
    for (const auto& service : result.consumers) {
      terminal.line(fmt::format("{}: {} products differ, {} messages dead-lettered",
                                service.service, service.different, service.deadLettered));
    }
    terminal.line(fmt::format("{} changes were acknowledged, {} committed, {} are pending",
                              traffic.succeeded(), result.committed, result.pending));
  }
  return clean;
}

}  // namespace

int demo(const DemoOptions& options, Terminal& terminal) {
  FleetOptions fleetOptions;
  fleetOptions.relays = 2;
  Fleet fleet(fleetOptions, terminal);
  bool clean = false;
  try {
    clean = play(options, fleet, terminal);
    if (clean) fleet.stop();
  } catch (const Interrupted&) {
    terminal.step("interrupted; stopping everything");
    return 130;
  } catch (const std::exception& error) {
    clean = false;
    terminal.step(std::string("FAILED: ") + error.what());
  }
  if (!clean) {
    fleet.keepFolder();
    terminal.line(fleet.logTails());
    terminal.step("FAILED; everything is kept in " + fleet.logFolder().parent_path().string());
    return 1;
  }
  terminal.step("nothing was lost, nothing was applied twice, all in order; everything is stopped");
  return 0;
}

}  // namespace pillion::warehouse
