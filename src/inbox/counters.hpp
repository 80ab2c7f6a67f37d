#pragma once

#include <atomic>
#include <cstdint>

namespace pillion::inbox {

/// Written by the consumer's threads, read by any.
struct Counters {
  std::atomic<std::uint64_t> delivered{0};
  std::atomic<std::uint64_t> applied{0};
  std::atomic<std::uint64_t> duplicates{0};
  std::atomic<std::uint64_t> ignored{0};
  std::atomic<std::uint64_t> failed{0};
  std::atomic<std::uint64_t> parked{0};
  std::atomic<std::uint64_t> held{0};
  std::atomic<std::uint64_t> discarded{0};
  std::atomic<std::uint64_t> deadLettered{0};
};

}  // namespace pillion::inbox
