#pragma once

#include <chrono>
#include <memory>
#include <pillion/pillion.hpp>
#include <string>
#include <vector>

#include "support/postgres_server.hpp"
#include "support/process.hpp"
#include "support/rabbit_server.hpp"
#include "support/temporary_directory.hpp"

namespace pillion::bench {

using Seconds = std::chrono::duration<double>;
using Steady = std::chrono::steady_clock;

inline double secondsSince(Steady::time_point start) {
  return Seconds(Steady::now() - start).count();
}

inline constexpr const char* kExchange = "bench.events";
inline constexpr std::size_t kPayload = 512;  // bytes

/// The private servers of one run: fsync on, quorum queues, everything on loopback.
struct BenchServers {
  support::TemporaryDirectory directory;
  support::PostgresServer postgres{
      directory / "postgres",
      {.durable = true,
       .settings = {
           {"shared_buffers", "1GB"}, {"max_wal_size", "8GB"}, {"checkpoint_timeout", "30min"}}}};
  support::RabbitServer rabbit{directory / "rabbit"};

  [[nodiscard]] DatabaseOptions database(const std::string& name) const;
  [[nodiscard]] BrokerOptions broker() const;
  /// A migrated database.
  std::string createDatabase();
  /// A new quorum queue, the only one bound to the exchange of `broker()`. One that is declared
  /// again right after it was deleted stays without a leader on RabbitMQ 3.10.
  void freshQueue();
  std::string queue = "";  ///< its name
  /// The program `pillion relay` on this database.
  support::Process startRelay(const std::string& database, const std::string& name,
                              const std::string& exchange = kExchange,
                              const std::vector<std::string>& arguments = {}) const;

 private:
  int databases_ = 0;
  int queues_ = 0;
};

/// JSON of exactly so many bytes.
std::string payload(std::size_t bytes = kPayload);

}  // namespace pillion::bench
