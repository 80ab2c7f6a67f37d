#include "support/rabbit_server.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <fstream>
#include <random>
#include <stdexcept>
#include <thread>

#include "support/eventually.hpp"
#include "support/ports.hpp"
#include "support/process_table.hpp"

namespace pillion::support {
namespace {

constexpr auto kStartLimit = std::chrono::seconds(60);

// Whether a broker answers the protocol header with its first method.
bool answersAmqp(int port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return false;
  const timeval patience{2, 0};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<in_port_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  static constexpr char kHeader[] = {'A', 'M', 'Q', 'P', 0, 0, 9, 1};
  char first = 0;
  const bool answered =
      connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 &&
      send(fd, kHeader, sizeof kHeader, MSG_NOSIGNAL) == sizeof kHeader &&
      recv(fd, &first, 1, 0) == 1 && first == 1;
  close(fd);
  return answered;
}

std::string randomCookie() {
  std::random_device random;
  std::string cookie;
  for (int i = 0; i < 24; ++i) {
    cookie += static_cast<char>('A' + std::uniform_int_distribution<int>(0, 25)(random));
  }
  return cookie;
}

}  // namespace

RabbitServer::RabbitServer(std::filesystem::path directory, RabbitOptions options)
    : directory_(std::move(directory)),
      options_(std::move(options)),
      node_(options_.nodeName + "@localhost"),
      stock_(findRabbitHome()),
      home_(stock_.directory),
      port_(freePort()),
      distributionPort_(freePort()),
      toolPort_(freePort()),
      epmdPort_(options_.epmdPort != 0 ? options_.epmdPort : freePort()) {
  std::filesystem::create_directories(directory_ / "home");
  directory_ = std::filesystem::canonical(directory_);
  writeFiles();
  if (stock_.major == 3) {
    home_ = buildSlimHome(stock_, directory_ / "slim").value_or(stock_.directory);
  }
  if (options_.epmdPort == 0) startEpmd();
  start();
}

RabbitServer::~RabbitServer() {
  try {
    kill();  // the files are about to be removed, so an orderly end would be a second lost
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
  }
}

void RabbitServer::writeFiles() const {
  std::ofstream(directory_ / "enabled_plugins") << "[].\n";
  // The memory limit is set so high that only setMemoryAlarm() raises that alarm.
  std::ofstream(directory_ / "rabbitmq.conf") << "log.file.level = info\n"
                                              << "loopback_users.guest = true\n"
                                              << "vm_memory_high_watermark.absolute = 4GB\n"
                                              << "disk_free_limit.absolute = 1MB\n"
                                              << options_.config << "\n";
  const auto cookie = directory_ / "home/.erlang.cookie";
  if (std::filesystem::exists(cookie)) return;
  std::ofstream(cookie) << (options_.cookie.empty() ? randomCookie() : options_.cookie);
  chmod(cookie.c_str(), 0400);
}

ProcessOptions RabbitServer::nodeProcess(std::vector<std::string> command) const {
  const auto in = [this](const char* name) { return (directory_ / name).string(); };
  ProcessOptions options;
  options.command = std::move(command);
  options.directory = directory_;
  options.withoutPrefixes = {"RABBITMQ_", "ERL_", "ERLANG_", "NOTIFY_SOCKET="};
  options.environment = {
      {"HOME", in("home")},
      {"ERL_EPMD_PORT", std::to_string(epmdPort_)},
      {"ERL_EPMD_ADDRESS", "127.0.0.1"},
      {"RABBITMQ_NODENAME", node_},
      {"RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1"},
      {"RABBITMQ_NODE_PORT", std::to_string(port_)},
      {"RABBITMQ_DIST_PORT", std::to_string(distributionPort_)},
      {"RABBITMQ_CTL_DIST_PORT_MIN", std::to_string(toolPort_)},
      {"RABBITMQ_CTL_DIST_PORT_MAX", std::to_string(toolPort_)},
      {"RABBITMQ_MNESIA_BASE", in("mnesia")},
      {"RABBITMQ_LOG_BASE", in("log")},
      {"RABBITMQ_PID_FILE", in("pid")},
      {"RABBITMQ_CONF_ENV_FILE", "/dev/null"},
      {"RABBITMQ_CONFIG_FILE", in("rabbitmq")},
      {"RABBITMQ_ADVANCED_CONFIG_FILE", in("advanced")},
      {"RABBITMQ_ENABLED_PLUGINS_FILE", in("enabled_plugins")},
      // With this the start script execs the Erlang machine instead of staying its parent, so that
      // our child is the machine itself; -noinput takes back what else the setting means.
      {"RABBITMQ_ALLOW_INPUT", "1"},
      {"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
       "-noinput +B i +S 2:2 -kernel inet_dist_use_interface {127,0,0,1}"}};
  return options;
}

void RabbitServer::startEpmd() {
  const auto program = findErlangProgram("epmd");
  if (program.empty()) throw std::runtime_error("no epmd found");
  auto options = nodeProcess({program, "-port", std::to_string(epmdPort_)});
  options.output = directory_ / "epmd.log";
  epmd_.emplace(std::move(options));
  // A node that finds no epmd would start one as a daemon, out of our reach.
  if (!eventually(std::chrono::seconds(10), [this] { return accepts(epmdPort_); })) {
    throw std::runtime_error("epmd did not start: " + tailOf(directory_ / "epmd.log"));
  }
}

void RabbitServer::start() {
  if (running()) return;
  for (;;) {
    auto options = nodeProcess({home_ / "sbin/rabbitmq-server"});
    options.output = directory_ / "server.log";
    process_.emplace(std::move(options));
    if (awaitReady()) return;
    const bool ended = !process_->running();
    kill();
    if (!ended || home_ == stock_.directory) failStart();
    home_ = stock_.directory;  // something the broker needs may be missing in the slim home
  }
}

bool RabbitServer::awaitReady() const {
  bool ready = false;
  eventually(kStartLimit, [&] {
    ready = answersAmqp(port_);
    return ready || !process_->running();
  });
  return ready;
}

void RabbitServer::failStart() const {
  throw std::runtime_error("RabbitMQ did not start: " + tailOf(directory_ / "server.log") +
                           tailOf(directory_ / "log" / (node_ + ".log")));
}

void RabbitServer::stop() {
  if (!process_) return;
  const auto helpers = descendantsOf(process_->pid());
  process_->signal(SIGTERM);
  const bool ended = process_->waitFor(std::chrono::seconds(30)).has_value();
  end(helpers);
  if (!ended) throw std::runtime_error("RabbitMQ did not stop within 30 s");
}

void RabbitServer::kill() {
  if (process_) end(descendantsOf(process_->pid()));
}

// The machine's port helpers are in sessions of their own. They end when they see it gone, and
// only then has the last of its files been closed.
void RabbitServer::end(const std::vector<pid_t>& helpers) {
  process_->signalGroup(SIGKILL);
  process_->wait();
  process_.reset();
  if (!waitUntilGone(helpers, std::chrono::seconds(10))) {
    throw std::runtime_error("helpers of the stopped RabbitMQ are still there");
  }
}

void RabbitServer::restart() {
  stop();
  start();
}

pid_t RabbitServer::pid() const {
  return running() ? process_->pid() : 0;
}

bool RabbitServer::running() const {
  return process_ && process_->running();
}

std::string RabbitServer::url() const {
  return urlThrough(port_);
}

std::string RabbitServer::urlThrough(int port) const {
  return "amqp://guest:guest@127.0.0.1:" + std::to_string(port) + "/%2f";
}

std::string RabbitServer::url(const std::string& user, const std::string& password) const {
  return "amqp://" + user + ":" + password + "@127.0.0.1:" + std::to_string(port_) + "/%2f";
}

std::string RabbitServer::cookie() const {
  return readFile(directory_ / "home/.erlang.cookie");
}

std::string RabbitServer::log() const {
  return readFile(directory_ / "log" / (node_ + ".log"));
}

}  // namespace pillion::support
