#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "support/postgres_server.hpp"
#include "support/process.hpp"

namespace pillion::support {

// A private PgBouncer in transaction mode in front of a private PostgreSQL, on a free port of
// 127.0.0.1. It has few server connections, so that clients really share them.
class PgBouncer {
 public:
  PgBouncer(std::filesystem::path directory, const PostgresServer& server, int poolSize = 3);
  PgBouncer(const PgBouncer&) = delete;
  PgBouncer& operator=(const PgBouncer&) = delete;
  ~PgBouncer();

  std::string url(const std::string& database) const;

 private:
  int port_;
  const PostgresServer& server_;
  std::optional<Process> process_;
};

}  // namespace pillion::support
