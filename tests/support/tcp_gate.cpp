#include "support/tcp_gate.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "support/ports.hpp"

namespace pillion::support {
namespace {

// A sender is no longer read from when so much waits for the receiver, so that a slow one slows
// it down as it would on a direct connection.
constexpr std::size_t kBufferLimit = std::size_t{1} << 20U;

[[noreturn]] void fail(const char* what) {
  throw std::system_error(errno, std::generic_category(), what);
}

sockaddr_in loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<in_port_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

void setFlag(int fd, int level, int option) {
  const int on = 1;
  setsockopt(fd, level, option, &on, sizeof on);
}

// Returns -1 when the target refuses at once; a later refusal shows as an error of the socket.
int connectTo(int port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  const auto address = loopback(port);
  const auto* const generic = reinterpret_cast<const sockaddr*>(&address);
  if (connect(fd, generic, sizeof address) == 0 || errno == EINPROGRESS) return fd;
  close(fd);
  return -1;
}

void closeWithReset(int fd) {
  if (fd < 0) return;
  const linger abort{1, 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &abort, sizeof abort);
  close(fd);
}

bool wouldBlock() {
  return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
}

}  // namespace

TcpGate::TcpGate(int targetPort)
    : target_(targetPort), port_(freePort()), wake_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  if (wake_ < 0) fail("eventfd");
  listen();
  thread_ = std::thread([this] { loop(); });
}

TcpGate::~TcpGate() {
  onLoop([this] { ending_ = true; });
  thread_.join();
  stopListening();
  for (auto& link : links_) reset(link);
  close(wake_);
}

void TcpGate::pass() {
  onLoop([this] {
    stalled_ = false;
    delay_ = std::chrono::milliseconds(0);
    listen();
  });
}

void TcpGate::refuse() {
  onLoop([this] { stopListening(); });
}

void TcpGate::cut() {
  onLoop([this] {
    if (listener_ >= 0) acceptAll();  // a connection the client already believes in is cut as well
    for (auto& link : links_) reset(link);
    links_.clear();
  });
}

void TcpGate::stall() {
  onLoop([this] { stalled_ = true; });
}

void TcpGate::delay(std::chrono::milliseconds time) {
  onLoop([this, time] { delay_ = time; });
}

int TcpGate::connections() {
  int count = 0;
  onLoop([&] { count = static_cast<int>(links_.size()); });
  return count;
}

// All state belongs to the loop's thread, so nothing but the list of actions needs a lock.
void TcpGate::onLoop(std::function<void()> action) {
  std::packaged_task<void()> task(std::move(action));
  auto done = task.get_future();
  {
    const std::lock_guard lock(mutex_);
    actions_.push_back(std::move(task));
  }
  eventfd_write(wake_, 1);
  done.get();
}

void TcpGate::runActions() {
  eventfd_t count = 0;
  eventfd_read(wake_, &count);
  std::vector<std::packaged_task<void()>> actions;
  {
    const std::lock_guard lock(mutex_);
    actions.swap(actions_);
  }
  for (auto& action : actions) action();
}

void TcpGate::loop() {
  std::vector<pollfd> events;
  while (!ending_) {
    if (waitForEvents(events) < 0) continue;
    // The events are in the order of links_; actions and new connections come afterwards.
    std::size_t next = 2;
    if (!stalled_) {
      for (auto& link : links_) {
        serve(link, events[next].revents, events[next + 1].revents);
        next += 2;
      }
    }
    links_.remove_if([](Link& link) {
      if (link.broken) reset(link);
      return link.broken;
    });
    if (events[1].revents != 0) acceptAll();
    if (events[0].revents != 0) runActions();
  }
}

int TcpGate::waitForEvents(std::vector<pollfd>& events) {
  events.clear();
  events.push_back({wake_, POLLIN, 0});
  events.push_back({listener_, POLLIN, 0});  // poll() ignores negative descriptors
  int timeout = -1;
  if (!stalled_) {
    timeout = millisecondsToNextChunk();
    const auto now = Clock::now();
    const auto wanted = [now](const Pipe& in, const Pipe& out) {
      short mask = 0;
      if (!in.ended && in.size < kBufferLimit) mask = POLLIN;
      if (!out.chunks.empty() && out.chunks.front().due <= now) mask |= POLLOUT;
      return mask;
    };
    for (const auto& link : links_) {
      const short client = wanted(link.toServer, link.toClient);
      const short server = wanted(link.toClient, link.toServer);
      // A socket that hung up is reported whether we ask or not, so one we cannot act on yet is
      // left out: it would keep the loop busy.
      events.push_back({client != 0 ? link.client : -1, client, 0});
      events.push_back({server != 0 ? link.server : -1, server, 0});
    }
  }
  return poll(events.data(), events.size(), timeout);
}

int TcpGate::millisecondsToNextChunk() const {
  auto next = Clock::time_point::max();
  for (const auto& link : links_) {
    for (const auto* pipe : {&link.toServer, &link.toClient}) {
      if (pipe->chunks.empty()) continue;
      const auto due = pipe->chunks.front().due;
      if (due > Clock::now()) next = std::min(next, due);
    }
  }
  if (next == Clock::time_point::max()) return -1;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(next - Clock::now()).count();
  return static_cast<int>(std::max<long>(left, 0));
}

void TcpGate::listen() {
  if (listener_ >= 0) return;
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) fail("socket");
  setFlag(fd, SOL_SOCKET, SO_REUSEADDR);
  const auto address = loopback(port_);
  const auto* const generic = reinterpret_cast<const sockaddr*>(&address);
  if (bind(fd, generic, sizeof address) != 0 || ::listen(fd, SOMAXCONN) != 0) {
    const int error = errno;
    close(fd);
    throw std::system_error(error, std::generic_category(), "cannot listen");
  }
  listener_ = fd;
}

void TcpGate::stopListening() {
  if (listener_ >= 0) close(listener_);
  listener_ = -1;
}

void TcpGate::acceptAll() {
  for (;;) {
    const int client = accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (client < 0) return;
    ++accepted_;
    const int server = connectTo(target_);
    if (server < 0) {
      closeWithReset(client);
      continue;
    }
    setFlag(client, IPPROTO_TCP, TCP_NODELAY);
    setFlag(server, IPPROTO_TCP, TCP_NODELAY);
    auto& link = links_.emplace_back();
    link.client = client;
    link.server = server;
  }
}

void TcpGate::serve(Link& link, short clientEvents, short serverEvents) {
  // POLLOUT is not looked at: forwarding is tried anyway, which also spares a turn of the loop.
  constexpr short kReadable = POLLIN | POLLHUP | POLLERR;
  if ((clientEvents & kReadable) != 0) receive(link, link.client, link.toServer);
  if ((serverEvents & kReadable) != 0) receive(link, link.server, link.toClient);
  forward(link, link.server, link.toServer);
  forward(link, link.client, link.toClient);
  if (link.toServer.shutDown && link.toClient.shutDown && !link.broken) {
    close(link.client);
    close(link.server);
    link.client = link.server = -1;
    link.broken = true;
  }
}

void TcpGate::receive(Link& link, int from, Pipe& pipe) {
  char buffer[65536];
  while (!pipe.ended && pipe.size < kBufferLimit) {
    const auto count = recv(from, buffer, sizeof buffer, 0);
    if (count < 0) {
      if (!wouldBlock()) link.broken = true;
      return;
    }
    if (count == 0) {
      pipe.ended = true;
      return;
    }
    pipe.chunks.push_back({Clock::now() + delay_, {buffer, static_cast<std::size_t>(count)}});
    pipe.size += static_cast<std::size_t>(count);
  }
}

void TcpGate::forward(Link& link, int to, Pipe& pipe) {
  while (!pipe.chunks.empty() && pipe.chunks.front().due <= Clock::now()) {
    auto& bytes = pipe.chunks.front().bytes;
    const auto count = send(to, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (count < 0) {
      // ENOTCONN: the connection to the server is still being made.
      if (!wouldBlock() && errno != ENOTCONN) link.broken = true;
      return;
    }
    const auto sent = static_cast<std::size_t>(count);
    pipe.size -= sent;
    if (sent < bytes.size()) {
      bytes.erase(0, sent);
      return;
    }
    pipe.chunks.pop_front();
  }
  if (pipe.ended && pipe.chunks.empty() && !pipe.shutDown) {
    shutdown(to, SHUT_WR);
    pipe.shutDown = true;
  }
}

void TcpGate::reset(Link& link) {
  closeWithReset(link.client);
  closeWithReset(link.server);
  link.client = link.server = -1;
}

}  // namespace pillion::support
