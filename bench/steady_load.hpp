#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "stage.hpp"

namespace pillion::bench {

struct Percentiles {
  double p50 = 0;  // milliseconds
  double p99 = 0;
};

Percentiles percentilesOf(std::vector<double> values);

/// JSON of 512 bytes that begins with the number, and the number of such a body.
std::string numberedBody(std::size_t number);
std::size_t numberOf(const std::string& body);

/// Calls `work` so often, however long one call takes, until the time is over or stop is requested.
void atRate(int perSecond, std::chrono::seconds time, const std::stop_token& stop,
            const std::function<void()>& work);

/// Numbered events of one type, each in a transaction of its own, at a steady rate from the
/// construction on, and when each arrives at a consumer of its queue for the first time.
class SteadyLoad {
 public:
  /// `key` of a number.
  SteadyLoad(const Stage& stage, const std::string& queue, std::string type, int perSecond,
             std::function<std::string(std::size_t)> key);
  ~SteadyLoad();

  [[nodiscard]] std::size_t written() const { return written_; }
  [[nodiscard]] std::size_t arrived() const { return arrived_; }

  /// No more is written; waits at most so long for what was. Those that do not come count with the
  /// time that they have waited until then.
  void finish(std::chrono::seconds limit);
  /// After `finish`: milliseconds from just before COMMIT to the arrival, of these numbers.
  [[nodiscard]] std::vector<double> latencies(std::size_t from, std::size_t to) const;

 private:
  using Nanoseconds = std::int64_t;
  struct Passage {
    std::atomic<Nanoseconds> left{0};
    std::atomic<Nanoseconds> came{0};
  };
  void write(const std::stop_token& stop, int perSecond);
  void read(const std::stop_token& stop, const std::string& queue);

  const Stage& stage_;
  std::string type_;
  std::function<std::string(std::size_t)> key_;
  std::vector<Passage> passages_;
  std::atomic<std::size_t> written_{0};
  std::atomic<std::size_t> arrived_{0};
  std::jthread reader_;
  std::jthread writer_;
};

}  // namespace pillion::bench
