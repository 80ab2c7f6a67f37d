#pragma once

#include <sys/types.h>

#include <chrono>
#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "support/process.hpp"

namespace pillion::support {

struct PostgresOptions {
  bool durable = true;                               // fsync; off only where no crash is tested
  std::map<std::string, std::string> settings = {};  // postgresql.conf, values without quotes
  std::string standbyOf = {};  // URL of the running server to copy and to follow by streaming
};

// A private PostgreSQL cluster below `directory`, listening on 127.0.0.1 and on a socket in
// `directory`, running when the constructor returns. Every user of `directory`'s parents must be
// able to pass through them when we are root, because the server then runs as another user.
class PostgresServer {
 public:
  static constexpr const char* kUser = "pillion";
  static constexpr const char* kPassword = "pillion-test-only";

  explicit PostgresServer(std::filesystem::path directory, PostgresOptions options = {});
  PostgresServer(const PostgresServer&) = delete;
  PostgresServer& operator=(const PostgresServer&) = delete;
  ~PostgresServer();

  int port() const { return port_; }
  pid_t pid() const;  // of the postmaster; 0 when stopped
  bool running() const;
  std::string url(const std::string& database = "postgres") const;
  // The same through another port, such as a TcpGate's, or as another user.
  std::string urlThrough(int port, const std::string& database = "postgres") const;
  std::string urlAs(const std::string& user, const std::string& password,
                    const std::string& database = "postgres") const;

  void createDatabase(const std::string& name) const;
  // One or more statements; throws std::runtime_error with the server's message.
  void execute(const std::string& database, const std::string& sql) const;
  // The first column of the only row; NULL gives an empty text. Throws unless there is one row.
  std::string query(const std::string& database, const std::string& sql) const;

  void start();
  // Ends all sessions and writes a checkpoint.
  void stop();
  // Kills the postmaster and its backends, as a machine that loses power would; returns when
  // nothing of them is left that could stand in the way of start().
  void kill();

  // Fills this cluster, which must be new and stopped, with what is in the other, stopped one, by
  // pg_upgrade. Throws std::runtime_error with its output when that fails.
  void upgradeFrom(const PostgresServer& old) const;

  std::string log() const;

 private:
  void initialize();
  void copyPrimary();
  void writeSettings() const;
  void awaitReady();
  void removeSharedMemory() const;
  ProcessOptions processOptions() const;

  std::filesystem::path directory_;
  PostgresOptions options_;
  std::filesystem::path binaries_;
  std::optional<User> user_;
  int port_ = 0;
  std::optional<Process> process_;
};

}  // namespace pillion::support
