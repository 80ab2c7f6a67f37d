#include "terminal.hpp"

#include <spdlog/fmt/fmt.h>

#include <iostream>

namespace pillion::warehouse {

void Terminal::line(const std::string& text) {
  const std::lock_guard lock(mutex_);
  std::cout << text << '\n' << std::flush;
}

void Terminal::step(const std::string& text) {
  line(fmt::format("[{:4.1f} s] {}", elapsed(), text));
}

double Terminal::elapsed() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
}

}  // namespace pillion::warehouse
