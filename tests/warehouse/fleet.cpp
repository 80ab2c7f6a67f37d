#include "fleet.hpp"

#include <httplib.h>
#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <csignal>
#include <future>
#include <stdexcept>
#include <utility>

#include "interruption.hpp"
#include "support/ports.hpp"

namespace pillion::warehouse {
namespace {

using std::chrono::seconds;

constexpr const char* kExchange = "warehouse.events";

bool portIsFree(int port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int yes = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<in_port_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const bool free = bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  close(fd);
  return free;
}

// "product-service" has its tables in product_db.
std::string databaseOf(const std::string& service) {
  return service.substr(0, service.find('-')) + "_db";
}

std::optional<std::string> get(int port, const std::string& path) {
  httplib::Client client("127.0.0.1", port);
  client.set_connection_timeout(seconds(2));
  const auto result = client.Get(path.c_str());
  if (!result || result->status != 200) return std::nullopt;
  return result->body;
}

}  // namespace

Fleet::Fleet(FleetOptions options, Terminal& terminal)
    : options_(std::move(options)), terminal_(terminal) {
  for (const int port : options_.ports) {
    if (!portIsFree(port)) {
      throw UsageError(fmt::format(
          "port {} is in use; stop what listens there, or choose others with --ports", port));
    }
  }
  std::filesystem::create_directory(logFolder());
}

void Fleet::start() {
  startServers();
  for (std::size_t i = 0; i < kServices.size(); ++i) {
    const auto& service = kServices[i];
    const auto wanted = options_.instances.find(service);
    const int count = wanted == options_.instances.end() ? 1 : wanted->second;
    for (int number = 1; number <= count; ++number) {
      const bool fixed = number == 1 && i < options_.ports.size();
      addService(service, fixed ? options_.ports[i] : support::freePort(), number);
    }
  }
  for (const auto& member : members_) awaitHealth(*member);
  // A queue gets what is published after it was made.
  for (const auto* queue : {"inventory-service-products", "order-service-products"}) {
    if (!waitFor(seconds(20), [&] { return rabbit_->queueExists(queue); })) {
      throw std::runtime_error(fmt::format("queue {} was not declared within 20 s", queue));
    }
  }
  terminal_.step(fmt::format("{} services answer, their queues exist", members_.size()));
  for (int i = 0; i < options_.relays; ++i) addRelay();
  if (!waitFor(seconds(20), [&] {
        return static_cast<int>(lanesOfRelays().size()) == options_.relays && relaysHoldAllLanes();
      })) {
    throw std::runtime_error("the relays did not share the outbox's lanes within 20 s");
  }
  for (const auto& [relay, lanes] : lanesOfRelays()) {
    terminal_.step(
        fmt::format("{} (pid {}) holds {} lanes", relay->name, relay->process->pid(), lanes));
  }
}

void Fleet::startServers() {
  terminal_.step("starting a private PostgreSQL and RabbitMQ in " + folder_.path().string());
  auto rabbit = std::async(std::launch::async, [this] {
    auto server = std::make_unique<support::RabbitServer>(folder_ / "rabbitmq");
    terminal_.step(fmt::format("RabbitMQ answers on port {}", server->port()));
    return server;
  });
  // Nothing here kills PostgreSQL or the machine; fsync would only make slow disks the subject.
  support::PostgresOptions options;
  options.durable = false;
  postgres_ = std::make_unique<support::PostgresServer>(folder_ / "postgresql", options);
  terminal_.step(fmt::format("PostgreSQL answers on port {}", postgres_->port()));
  migrate();
  rabbit_ = rabbit.get();
  if (interrupted()) throw Interrupted();
}

void Fleet::migrate() {
  for (const auto& service : kServices) {
    postgres_->createDatabase(databaseOf(service));
    auto options = process(WAREHOUSE_PILLION, service);
    options.command.push_back("migrate");
    const auto result = support::run(options);
    if (result.status != 0) {
      throw std::runtime_error("pillion migrate failed for " + databaseOf(service) + ": " +
                               result.output);
    }
  }
  terminal_.step("product_db, inventory_db and order_db are migrated");
}

support::ProcessOptions Fleet::process(const std::string& program,
                                       const std::string& service) const {
  support::ProcessOptions options;
  options.command = {program};
  options.withoutPrefixes = {"PILLION_", "PG"};  // of the user; they are for another database
  options.environment = {{"PILLION_DATABASE_URL", databaseUrl(service)},
                         {"PILLION_EXCHANGE", kExchange}};
  if (rabbit_) options.environment["PILLION_AMQP_URL"] = rabbit_->url();
  return options;
}

void Fleet::addService(const std::string& service, int port, int number) {
  Member member;
  member.name = number == 1 ? service : fmt::format("{}-{}", service, number);
  member.service = service;
  member.port = port;
  member.options = process(std::string(WAREHOUSE_SERVICES) + "/" + service, service);
  member.options.environment["HOST"] = "127.0.0.1";
  member.options.environment["PORT"] = std::to_string(port);
  add(std::move(member));
}

Member& Fleet::addRelay() {
  Member member;
  member.name = fmt::format("relay-{}", ++relaysStarted_);
  member.service = "relay";
  member.options = process(WAREHOUSE_PILLION, "product-service");
  member.options.command.push_back("relay");
  return add(std::move(member));
}

Member& Fleet::add(Member member) {
  member.log = logFolder() / (member.name + ".log");
  member.options.output = member.log;
  launch(member);
  members_.push_back(std::make_unique<Member>(std::move(member)));
  return *members_.back();
}

void Fleet::launch(Member& member) const {
  member.process.emplace(member.options);
  member.started = std::chrono::steady_clock::now();
}

void Fleet::awaitHealth(const Member& member) const {
  const auto answers = [&] {
    if (!member.process->running()) {
      throw std::runtime_error(
          fmt::format("{} ended with status {}", member.name, member.process->wait()));
    }
    return get(member.port, "/health").has_value();
  };
  if (!waitFor(seconds(20), answers)) {
    throw std::runtime_error(member.name + " did not answer within 20 s");
  }
}

void Fleet::stop() {
  // Relays first, so that they can finish their window while the broker is there.
  for (const bool relays : {true, false}) {
    std::vector<Member*> running;
    for (const auto& member : members_) {
      const bool chosen = (member->service == "relay") == relays && member->process->running();
      if (chosen) running.push_back(member.get());
    }
    for (const auto* member : running) member->process->signal(SIGTERM);
    for (const auto* member : running) {
      const int status = member->process->terminate();
      if (status == 0) continue;
      throw std::runtime_error(
          fmt::format("{} ended with status {} when it was stopped", member->name, status));
    }
  }
}

std::map<Member*, int> Fleet::lanesOfRelays() {
  std::map<Member*, int> lanes;
  for (const auto& lane : outboxStatus().lanes) {
    for (const auto& member : members_) {
      if (member->service != "relay" || !member->process->running()) continue;
      // A relay without a name calls itself "host:pid".
      if (lane.holder.ends_with(fmt::format(":{}", member->process->pid()))) ++lanes[member.get()];
    }
  }
  return lanes;
}

bool Fleet::relaysHoldAllLanes() {
  std::size_t held = 0;
  for (const auto& [relay, lanes] : lanesOfRelays()) held += static_cast<std::size_t>(lanes);
  return held == outboxStatus().lanes.size();
}

void Fleet::supervise() {
  if (!postgres_->running()) throw std::runtime_error("PostgreSQL has ended");
  if (!rabbit_->running()) throw std::runtime_error("RabbitMQ has ended");
  for (const auto& member : members_) {
    if (member->process->running()) continue;
    const int status = member->process->wait();
    if (std::chrono::steady_clock::now() - member->started < seconds(2)) {
      throw std::runtime_error(fmt::format("{} ended with status {}", member->name, status));
    }
    launch(*member);
    terminal_.step(fmt::format("{} had ended with status {}; started again (pid {})", member->name,
                               status, member->process->pid()));
  }
}

std::string Fleet::databaseUrl(const std::string& service) const {
  return postgres_->url(databaseOf(service));
}

OutboxStatus Fleet::outboxStatus() const {
  DatabaseOptions options;
  options.url = databaseUrl("product-service");
  options.schema = "pillion";
  return readOutboxStatus(options);
}

std::map<std::string, std::uint64_t> Fleet::stats(const std::string& service) const {
  std::map<std::string, std::uint64_t> sum;
  for (const auto& member : members_) {
    if (member->service != service) continue;
    const auto body = get(member->port, "/api/v1/stats");
    if (!body) throw std::runtime_error(member->name + " does not tell its stats");
    const auto counters = nlohmann::json::parse(*body);
    for (const auto& [name, value] : counters.items()) {
      sum[name] += value.get<std::uint64_t>();
    }
  }
  return sum;
}

long Fleet::queueDepth(const std::string& service) const {
  return rabbit_->queueDepth(service + "-products");
}

int Fleet::restPort() const {
  return members_.front()->port;
}

std::string Fleet::statusCommand() const {
  return fmt::format("PILLION_DATABASE_URL='{}' {} status", databaseUrl("product-service"),
                     WAREHOUSE_PILLION);
}

std::string Fleet::logTails() const {
  std::string text;
  for (const auto& member : members_) {
    text += fmt::format("--- the end of {}\n{}", member->log.string(),
                        support::tailOf(member->log, 1500));
    if (!text.ends_with('\n')) text += '\n';
  }
  return text;
}

}  // namespace pillion::warehouse
