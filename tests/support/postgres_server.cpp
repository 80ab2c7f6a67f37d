#include "support/postgres_server.hpp"

#include <libpq-fe.h>
#include <sys/shm.h>
#include <sys/un.h>

#include <charconv>
#include <csignal>
#include <fstream>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <thread>

#include "support/ports.hpp"
#include "support/process_table.hpp"
#include "support/temporary_directory.hpp"

namespace pillion::support {
namespace {

using Connection = std::unique_ptr<PGconn, decltype(&PQfinish)>;
using Result = std::unique_ptr<PGresult, decltype(&PQclear)>;

constexpr auto kStartLimit = std::chrono::seconds(120);  // crash recovery on a busy machine

std::filesystem::path findBinaries() {
  int newest = 0;
  std::filesystem::path found;
  std::error_code missing;
  for (const auto& item : std::filesystem::directory_iterator("/usr/lib/postgresql", missing)) {
    const std::string name = item.path().filename();
    int version = 0;
    std::from_chars(name.data(), name.data() + name.size(), version);
    if (version <= newest || !std::filesystem::exists(item.path() / "bin/postgres")) continue;
    newest = version;
    found = item.path() / "bin";
  }
  if (newest == 0) throw std::runtime_error("no PostgreSQL server in /usr/lib/postgresql");
  return found;
}

std::string percentEncoded(const std::string& text) {
  static constexpr char kDigits[] = "0123456789ABCDEF";
  std::string result;
  for (const unsigned char c : text) {
    if (std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.' || c == '~') {
      result += static_cast<char>(c);
    } else {
      result += {'%', kDigits[c >> 4U], kDigits[c & 15U]};
    }
  }
  return result;
}

std::string makeUrl(const std::string& user, const std::string& password, int port,
                    const std::string& database) {
  return "postgresql://" + percentEncoded(user) + ":" + percentEncoded(password) +
         "@127.0.0.1:" + std::to_string(port) + "/" + percentEncoded(database);
}

Connection connect(const std::string& url) {
  Connection connection(PQconnectdb(url.c_str()), &PQfinish);
  if (!connection) throw std::bad_alloc();
  if (PQstatus(connection.get()) != CONNECTION_OK) {
    throw std::runtime_error(PQerrorMessage(connection.get()));
  }
  return connection;
}

Result executed(PGconn* connection, const std::string& sql) {
  Result result(PQexec(connection, sql.c_str()), &PQclear);
  const auto status = PQresultStatus(result.get());
  if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK && status != PGRES_EMPTY_QUERY) {
    throw std::runtime_error(PQerrorMessage(connection) + ("in: " + sql));
  }
  return result;
}

std::string quoted(const std::string& value) {
  std::string result = "'";
  for (const char c : value) {
    if (c == '\'' || c == '\\') result += c;
    result += c;
  }
  return result + "'";
}

// Whatever steers a client or a server by the environment must not reach a private cluster.
ProcessOptions isolated(std::vector<std::string> command) {
  ProcessOptions options;
  options.command = std::move(command);
  options.withoutPrefixes = {"PG", "LC_", "LANG", "TZ="};
  options.environment = {{"LC_ALL", "C.UTF-8"}};
  return options;
}

}  // namespace

PostgresServer::PostgresServer(std::filesystem::path directory, PostgresOptions options)
    : directory_(std::move(directory)),
      options_(std::move(options)),
      binaries_(findBinaries()),
      user_(unprivilegedUser()),
      port_(freePort()) {
  std::filesystem::create_directories(directory_);
  directory_ = std::filesystem::canonical(directory_);
  if (user_) changeOwner(directory_, *user_);
  if (!options_.standbyOf.empty()) {
    copyPrimary();
  } else if (!std::filesystem::exists(directory_ / "data/PG_VERSION")) {
    initialize();
  }
  writeSettings();
  start();
}

PostgresServer::~PostgresServer() {
  if (process_) {
    process_->signal(SIGQUIT);  // no checkpoint: the files are about to be removed
    if (!process_->waitFor(std::chrono::seconds(10))) kill();
  }
  removeSharedMemory();
}

void PostgresServer::copyPrimary() {
  auto options =
      isolated({binaries_ / "pg_basebackup", "--pgdata=" + (directory_ / "data").string(),
                "--dbname=" + options_.standbyOf, "--checkpoint=fast", "--no-sync",
                "--wal-method=stream", "--write-recovery-conf"});
  options.directory = directory_;
  options.runAs = user_;
  const auto result = run(std::move(options));
  if (result.status != 0) throw std::runtime_error("pg_basebackup failed: " + result.output);
  options_.settings["primary_conninfo"] = options_.standbyOf;
}

void PostgresServer::initialize() {
  const auto passwordFile = directory_ / "password";
  std::ofstream(passwordFile) << kPassword << "\n";
  if (user_) changeOwner(passwordFile, *user_);
  auto options =
      isolated({binaries_ / "initdb", "--pgdata=" + (directory_ / "data").string(),
                std::string("--username=") + kUser, "--pwfile=" + passwordFile.string(),
                "--auth=scram-sha-256", "--locale=C.UTF-8", "--encoding=UTF8", "--no-sync"});
  options.directory = directory_;
  options.runAs = user_;
  const auto result = run(std::move(options));
  std::filesystem::remove(passwordFile);
  if (result.status != 0) throw std::runtime_error("initdb failed: " + result.output);
}

void PostgresServer::writeSettings() const {
  // A socket's path is limited; without one, 127.0.0.1 still works.
  const auto socketPath = directory_.string() + "/.s.PGSQL.65535.lock";
  const bool fits = socketPath.size() < sizeof(sockaddr_un::sun_path);
  std::map<std::string, std::string> settings = {
      {"listen_addresses", "127.0.0.1"},
      {"port", std::to_string(port_)},
      {"unix_socket_directories", fits ? directory_.string() : ""},
      {"max_connections", "200"},
      {"shared_buffers", "256MB"},
      {"max_prepared_transactions", "10"},
      {"fsync", options_.durable ? "on" : "off"},
      {"full_page_writes", options_.durable ? "on" : "off"},
      // In the data directory rather than /dev/shm, where a killed server would leave it for good.
      {"dynamic_shared_memory_type", "mmap"},
      {"log_line_prefix", "%m [%p] %q%u@%d "},
      {"log_timezone", "UTC"},
      {"timezone", "UTC"}};
  for (const auto& [name, value] : options_.settings) settings[name] = value;
  std::ofstream file(directory_ / "data/postgresql.auto.conf");
  for (const auto& [name, value] : settings) file << name << " = " << quoted(value) << "\n";
  file.close();
  if (!file) throw std::runtime_error("cannot write the settings in " + directory_.string());
}

ProcessOptions PostgresServer::processOptions() const {
  auto options = isolated({binaries_ / "postgres", "-D", directory_ / "data"});
  options.directory = directory_;
  options.output = directory_ / "server.log";
  options.runAs = user_;
  return options;
}

void PostgresServer::start() {
  if (running()) return;
  process_.emplace(processOptions());
  awaitReady();
}

void PostgresServer::awaitReady() {
  const auto deadline = std::chrono::steady_clock::now() + kStartLimit;
  while (PQping(url().c_str()) != PQPING_OK) {
    const bool ended = !process_->running();
    if (ended || std::chrono::steady_clock::now() > deadline) {
      if (!ended) kill();
      process_.reset();
      throw std::runtime_error("PostgreSQL did not start: " + tailOf(directory_ / "server.log"));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  connect(url());  // and lets us in
}

void PostgresServer::stop() {
  if (!process_) return;
  process_->signal(SIGINT);
  if (!process_->waitFor(std::chrono::seconds(60))) {
    kill();
    throw std::runtime_error("PostgreSQL did not stop: " + tailOf(directory_ / "server.log"));
  }
  process_.reset();
}

void PostgresServer::kill() {
  if (!process_) return;
  // Stopped first, so that no backend is started after the list was made. Backends have sessions
  // of their own; a signal to the group would not reach them.
  process_->signal(SIGSTOP);
  const auto backends = descendantsOf(process_->pid());
  process_->signal(SIGKILL);
  for (const pid_t backend : backends) ::kill(backend, SIGKILL);
  process_->wait();
  process_.reset();
  if (!waitUntilGone(backends, std::chrono::seconds(10))) {
    throw std::runtime_error("backends of the killed PostgreSQL are still there");
  }
}

// A killed server leaves its System V segment behind; the next start would remove it, but there
// is none after the destructor. Its id is the last number on line 7 of postmaster.pid.
void PostgresServer::removeSharedMemory() const {
  std::ifstream file(directory_ / "data/postmaster.pid");
  std::string line;
  for (int i = 0; i < 7; ++i) {
    if (!std::getline(file, line)) return;
  }
  std::istringstream fields(line);
  unsigned long key = 0;
  int id = 0;
  if (fields >> key >> id) shmctl(id, IPC_RMID, nullptr);
}

pid_t PostgresServer::pid() const {
  return running() ? process_->pid() : 0;
}

bool PostgresServer::running() const {
  return process_ && process_->running();
}

std::string PostgresServer::url(const std::string& database) const {
  return urlThrough(port_, database);
}

std::string PostgresServer::urlThrough(int port, const std::string& database) const {
  return makeUrl(kUser, kPassword, port, database);
}

std::string PostgresServer::urlAs(const std::string& user, const std::string& password,
                                  const std::string& database) const {
  return makeUrl(user, password, port_, database);
}

void PostgresServer::createDatabase(const std::string& name) const {
  const auto connection = connect(url());
  const std::unique_ptr<char, decltype(&PQfreemem)> identifier(
      PQescapeIdentifier(connection.get(), name.data(), name.size()), &PQfreemem);
  if (!identifier) throw std::runtime_error(PQerrorMessage(connection.get()));
  executed(connection.get(), std::string("CREATE DATABASE ") + identifier.get());
}

void PostgresServer::execute(const std::string& database, const std::string& sql) const {
  executed(connect(url(database)).get(), sql);
}

std::string PostgresServer::query(const std::string& database, const std::string& sql) const {
  const auto connection = connect(url(database));
  const auto result = executed(connection.get(), sql);
  if (PQntuples(result.get()) != 1 || PQnfields(result.get()) < 1) {
    throw std::runtime_error(std::to_string(PQntuples(result.get())) +
                             " rows, not one, from: " + sql);
  }
  return PQgetvalue(result.get(), 0, 0);
}

void PostgresServer::upgradeFrom(const PostgresServer& old) const {
  const auto passwordFile = directory_ / "pgpass";
  std::ofstream(passwordFile) << "*:*:*:" << kUser << ":" << kPassword << "\n";
  std::filesystem::permissions(passwordFile, std::filesystem::perms::owner_read);
  if (user_) changeOwner(passwordFile, *user_);
  const auto binaries = binaries_.string();
  auto options =
      isolated({binaries_ / "pg_upgrade", "--old-bindir=" + binaries, "--new-bindir=" + binaries,
                "--old-datadir=" + (old.directory_ / "data").string(),
                "--new-datadir=" + (directory_ / "data").string(),
                "--old-port=" + std::to_string(freePort()),
                "--new-port=" + std::to_string(freePort()), std::string("--username=") + kUser});
  options.environment["PGPASSFILE"] = passwordFile;
  options.directory = directory_;
  options.runAs = user_;
  const auto result = run(std::move(options), std::chrono::minutes(3));
  if (result.status != 0) throw std::runtime_error("pg_upgrade failed: " + result.output);
}

std::string PostgresServer::log() const {
  return readFile(directory_ / "server.log");
}

}  // namespace pillion::support
