#pragma once

#include <sys/types.h>

#include <filesystem>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "support/erlang_home.hpp"
#include "support/process.hpp"

namespace pillion::support {

struct RabbitOptions {
  std::string config = {};           // more lines for rabbitmq.conf
  std::string nodeName = "pillion";  // the part before @localhost
  // Nodes that form a cluster share these; by default each node has its own.
  std::string cookie = {};
  int epmdPort = 0;  // of an epmd that runs already
};

// A private RabbitMQ node below `directory`, with its own epmd, cookie and ports, all on 127.0.0.1;
// it answers AMQP when the constructor returns. It runs as the current user, root included. Both
// the Erlang machine and epmd are direct children and die with this program.
class RabbitServer {
 public:
  explicit RabbitServer(std::filesystem::path directory, RabbitOptions options = {});
  RabbitServer(const RabbitServer&) = delete;
  RabbitServer& operator=(const RabbitServer&) = delete;
  ~RabbitServer();

  int port() const { return port_; }
  pid_t pid() const;                              // of the Erlang machine; 0 when stopped
  pid_t epmdPid() const { return epmd_->pid(); }  // when it has its own
  int epmdPort() const { return epmdPort_; }
  const std::string& name() const { return node_; }  // NAME@localhost
  std::string cookie() const;
  bool running() const;
  std::string url() const;  // as guest
  std::string url(const std::string& user, const std::string& password) const;
  // The same through another port, such as a TcpGate's.
  std::string urlThrough(int port) const;

  void start();
  void stop();  // clients are told
  void kill();
  void restart();

  // rabbitmqctl, about a second; throws std::runtime_error when it fails.
  std::string ctl(const std::vector<std::string>& arguments) const;
  // The value of an Erlang expression, without a full stop at its end; about 20 ms. Throws
  // std::runtime_error when it fails.
  std::string eval(const std::string& expression) const;

  // Makes or changes a user of vhost "/"; the permissions are regular expressions.
  void addUser(const std::string& name, const std::string& password, const std::string& configure,
               const std::string& write, const std::string& read) const;
  void setMemoryAlarm(bool on) const;  // publishers are blocked while it is on
  void closeAllConnections() const;
  bool queueExists(const std::string& queue) const;
  // Ready and unacknowledged messages, asked of the queue itself: the statistics lag by seconds.
  long queueDepth(const std::string& queue) const;
  void deleteQueue(const std::string& queue) const;
  void deleteExchange(const std::string& exchange) const;
  void deleteBinding(const std::string& exchange, const std::string& key,
                     const std::string& queue) const;
  // While suspended, a queue answers nobody: neither publishers nor the operator.
  void suspendQueue(const std::string& queue, bool suspended) const;

  std::string log() const;

 private:
  void writeFiles() const;
  void startEpmd();
  bool awaitReady() const;
  void end(const std::vector<pid_t>& helpers);
  std::string erlCall(const std::string& program, const std::string& expression) const;
  ProcessOptions nodeProcess(std::vector<std::string> command) const;
  [[noreturn]] void failStart() const;

  std::filesystem::path directory_;
  RabbitOptions options_;
  std::string node_;
  RabbitHome stock_;
  std::filesystem::path home_;
  int port_ = 0;
  int distributionPort_ = 0;
  int toolPort_ = 0;
  int epmdPort_ = 0;
  std::optional<Process> epmd_;
  std::optional<Process> process_;
  mutable std::mutex toolMutex_;  // rabbitmqctl listens on toolPort_, so one at a time
};

// A queue that hangs while this lives.
class SuspendedQueue {
 public:
  SuspendedQueue(const RabbitServer& server, std::string queue)
      : server_(server), queue_(std::move(queue)) {
    server_.suspendQueue(queue_, true);
  }
  ~SuspendedQueue() { server_.suspendQueue(queue_, false); }
  SuspendedQueue(const SuspendedQueue&) = delete;
  SuspendedQueue& operator=(const SuspendedQueue&) = delete;

 private:
  const RabbitServer& server_;
  std::string queue_;
};

}  // namespace pillion::support
