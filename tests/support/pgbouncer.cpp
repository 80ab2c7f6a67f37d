#include "support/pgbouncer.hpp"

#include <libpq-fe.h>

#include <csignal>
#include <fstream>
#include <stdexcept>

#include "support/eventually.hpp"
#include "support/ports.hpp"
#include "support/spawn.hpp"
#include "support/temporary_directory.hpp"

namespace pillion::support {

PgBouncer::PgBouncer(std::filesystem::path directory, const PostgresServer& server, int poolSize)
    : port_(freePort()), server_(server) {
  const auto user = unprivilegedUser();  // it refuses to run as root
  std::filesystem::create_directories(directory);
  const auto configuration = directory / "pgbouncer.ini";
  std::ofstream(configuration) << "[databases]\n* = host=127.0.0.1 port=" << server.port()
                               << " user=" << PostgresServer::kUser
                               << " password=" << PostgresServer::kPassword
                               << "\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = " << port_
                               << "\nunix_socket_dir =\nauth_type = any\npool_mode = transaction"
                               << "\ndefault_pool_size = " << poolSize
                               << "\nmax_client_conn = 200\nserver_reset_query =\n";
  if (user) {
    changeOwner(directory, *user);
    changeOwner(configuration, *user);
  }
  ProcessOptions options;
  options.command = {"/usr/sbin/pgbouncer", configuration};
  options.directory = directory;
  options.output = directory / "pgbouncer.log";
  options.runAs = user;
  process_.emplace(std::move(options));
  const bool up = eventually(std::chrono::seconds(20),
                             [&] { return PQping(url("postgres").c_str()) == PQPING_OK; });
  if (!up) throw std::runtime_error("PgBouncer did not start: " + process_->output());
}

PgBouncer::~PgBouncer() {
  process_->signal(SIGINT);
  process_->waitFor(std::chrono::seconds(10));
}

std::string PgBouncer::url(const std::string& database) const {
  return server_.urlThrough(port_, database);
}

}  // namespace pillion::support
