// Follows the log files of the fleet and repeats their lines on the terminal.
#pragma once

#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "terminal.hpp"

namespace pillion::warehouse {

class LogStream {
 public:
  struct Source {
    std::string name;
    std::filesystem::path file;
    std::streamoff read = 0;
    std::string rest = {};  // of a line that is not complete
  };

  LogStream(std::vector<Source> sources, Terminal& terminal);
  // Shows what is there by now first.
  ~LogStream();
  LogStream(const LogStream&) = delete;
  LogStream& operator=(const LogStream&) = delete;

 private:
  void show(Source& source);

  std::vector<Source> sources_;
  Terminal& terminal_;
  std::jthread thread_;
};

}  // namespace pillion::warehouse
