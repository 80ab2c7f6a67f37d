#pragma once

#include <atomic>
#include <cstdint>

namespace pillion::relay {

/// Written by the relay's thread, read by any.
struct Counters {
  std::atomic<std::uint64_t> published{0};
  std::atomic<std::uint64_t> nacked{0};
  std::atomic<std::uint64_t> unroutable{0};
  std::atomic<std::uint64_t> parked{0};
  std::atomic<std::uint64_t> dropped{0};
  std::atomic<std::uint64_t> expired{0};
  std::atomic<std::uint64_t> repeated{0};
  std::atomic<std::uint64_t> pages{0};
  std::atomic<std::uint64_t> checkpoints{0};
};

}  // namespace pillion::relay
