// Everything that the warehouse consists of: two private servers, three databases, the services and
// the relays, each a process of its own with a log file.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <pillion/pillion.hpp>
#include <string>
#include <vector>

#include "support/postgres_server.hpp"
#include "support/process.hpp"
#include "support/rabbit_server.hpp"
#include "support/temporary_directory.hpp"
#include "terminal.hpp"

namespace pillion::warehouse {

inline const std::vector<std::string> kServices = {"product-service", "inventory-service",
                                                   "order-service"};

// A mistake of the caller, or of the machine, that one line explains: status 2.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct FleetOptions {
  std::map<std::string, int> instances = {};  // per service; 1 when not named
  std::vector<int> ports = {};                // of each service's first instance; empty: free ones
  int relays = 1;
};

// One program that was started, and how to start it again.
struct Member {
  std::string name;  // "order-service", "order-service-2", "relay-1"
  std::string service;
  int port = 0;  // REST; 0 for a relay
  std::filesystem::path log;
  support::ProcessOptions options;
  std::optional<support::Process> process;
  std::chrono::steady_clock::time_point started;
};

class Fleet {
 public:
  // Throws UsageError when a port is in use.
  Fleet(FleetOptions options, Terminal& terminal);

  // Returns when all services answer, both queues exist and the relays share the lanes.
  void start();
  // In the order that lets each finish what it has begun. Throws when one does not end well.
  void stop();
  void keepFolder() { folder_.keep(); }

  // Starts a relay more.
  Member& addRelay();
  // The running relays that hold lanes of the outbox, and how many each.
  std::map<Member*, int> lanesOfRelays();
  bool relaysHoldAllLanes();
  // Starts whatever has ended again, and says so. Throws when it cannot stay up.
  void supervise();

  std::string databaseUrl(const std::string& service) const;
  OutboxStatus outboxStatus() const;
  // The services' own counters, all instances together.
  std::map<std::string, std::uint64_t> stats(const std::string& service) const;
  // Ready and unacknowledged messages of a consuming service.
  long queueDepth(const std::string& service) const;

  support::RabbitServer& rabbit() { return *rabbit_; }
  std::vector<std::unique_ptr<Member>>& members() { return members_; }
  int restPort() const;  // of product-service
  std::string statusCommand() const;
  std::filesystem::path logFolder() const { return folder_ / "logs"; }
  // The last lines of each log, for a failure.
  std::string logTails() const;

 private:
  void startServers();
  void migrate();
  void addService(const std::string& service, int port, int number);
  Member& add(Member member);
  void launch(Member& member) const;
  void awaitHealth(const Member& member) const;
  support::ProcessOptions process(const std::string& program, const std::string& service) const;

  FleetOptions options_;
  Terminal& terminal_;
  support::TemporaryDirectory folder_;
  std::unique_ptr<support::RabbitServer> rabbit_;
  std::unique_ptr<support::PostgresServer> postgres_;
  std::vector<std::unique_ptr<Member>> members_;  // destroyed before the servers
  int relaysStarted_ = 0;
};

}  // namespace pillion::warehouse
