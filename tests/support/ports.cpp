#include "support/ports.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstddef>
#include <cstring>
#include <fstream>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>

namespace pillion::support {
namespace {

constexpr int kLowest = 10240;
constexpr int kHighest = 65535;

sockaddr_in loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<in_port_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

// The larger of the two stretches beside the ephemeral range, or all if neither is worth it.
std::pair<int, int> candidates() {
  std::ifstream file("/proc/sys/net/ipv4/ip_local_port_range");
  int first = 0;
  int last = 0;
  if (!(file >> first >> last)) return {kLowest, kHighest};
  constexpr int kEnough = 1000;
  const int below = first - kLowest;
  const int above = kHighest - last;
  if (below >= above && below >= kEnough) return {kLowest, first - 1};
  if (above >= kEnough) return {last + 1, kHighest};
  return {kLowest, kHighest};
}

// An abstract socket is a lock that the kernel drops with the process, and its names are shared by
// exactly those processes that share the ports: the ones of this network namespace.
bool reserve(int port) {
  const int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return false;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string name = "pillion-port-" + std::to_string(port);
  std::memcpy(address.sun_path + 1, name.data(), name.size());
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  if (bind(fd, reinterpret_cast<const sockaddr*>(&address), size) == 0) return true;
  close(fd);
  return false;
}

bool bindable(int port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return false;
  const auto address = loopback(port);
  const bool bound = bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  close(fd);
  return bound;
}

}  // namespace

int freePort() {
  const auto [first, last] = candidates();
  const int count = last - first + 1;
  std::random_device random;
  int offset = std::uniform_int_distribution<int>(0, count - 1)(random);
  for (int tried = 0; tried < count; ++tried) {
    const int port = first + (offset + tried) % count;
    if (bindable(port) && reserve(port)) return port;
  }
  throw std::runtime_error("no free TCP port on 127.0.0.1");
}

bool accepts(int port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return false;
  const auto address = loopback(port);
  const bool open = connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  close(fd);
  return open;
}

}  // namespace pillion::support
