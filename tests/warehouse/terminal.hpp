// Whole lines on standard output, from any thread.
#pragma once

#include <chrono>
#include <mutex>
#include <string>

namespace pillion::warehouse {

class Terminal {
 public:
  void line(const std::string& text);
  // `[ 3.2 s] text`, counted from the start of the program.
  void step(const std::string& text);
  double elapsed() const;

 private:
  std::mutex mutex_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace pillion::warehouse
