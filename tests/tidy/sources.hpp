#pragma once

#include <filesystem>
#include <regex>
#include <string>
#include <vector>

// What the tidy tests read of the source tree.

namespace tidy {

struct Source {
  std::string path;  // from the root of the tree, with '/'
  std::vector<std::string> lines;
};

/// The text of a file below the root; "" when it is not there.
std::string textOf(const std::string& path);
std::vector<std::string> linesOf(const std::string& text);

/// The *.hpp and *.cpp below these folders.
std::vector<Source> cppSources(const std::vector<std::string>& folders);

/// "path:line: …" of each line that the pattern finds something in.
std::vector<std::string> linesWith(const Source& source, const std::regex& pattern);

/// What a source includes, as it is written: "base/clock.hpp" or <memory>, without the brackets.
struct Include {
  std::string name;
  bool quoted = false;
  std::string where;
};
std::vector<Include> includesOf(const Source& source);

/// Each line joined to one text, for a readable failure.
std::string joined(const std::vector<std::string>& lines);

}  // namespace tidy
