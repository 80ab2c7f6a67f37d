#include "log_stream.hpp"

#include <spdlog/fmt/fmt.h>

#include <chrono>
#include <fstream>
#include <iterator>
#include <utility>

namespace pillion::warehouse {

LogStream::LogStream(std::vector<Source> sources, Terminal& terminal)
    : sources_(std::move(sources)), terminal_(terminal), thread_([this](std::stop_token stop) {
        while (!stop.stop_requested()) {
          for (auto& source : sources_) show(source);
          std::this_thread::sleep_for(std::chrono::milliseconds(30));
        }
      }) {}

LogStream::~LogStream() {
  thread_.request_stop();
  thread_.join();
  for (auto& source : sources_) show(source);
}

void LogStream::show(Source& source) {
  std::ifstream file(source.file, std::ios::binary);
  file.seekg(source.read);
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  source.read += static_cast<std::streamoff>(text.size());
  for (const char c : text) {
    if (c != '\n') {
      source.rest += c;
      continue;
    }
    terminal_.line(fmt::format("{:<17} | {}", source.name, source.rest));
    source.rest.clear();
  }
}

}  // namespace pillion::warehouse
