#include "sources.hpp"

#include <algorithm>
#include <fstream>
#include <sstream>

namespace tidy {
namespace {

namespace fs = std::filesystem;

const fs::path kRoot = TIDY_ROOT;

std::string place(const Source& source, std::size_t line) {
  return source.path + ":" + std::to_string(line + 1);
}

}  // namespace

std::string textOf(const std::string& path) {
  std::ifstream file(kRoot / path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::vector<std::string> linesOf(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

std::vector<Source> cppSources(const std::vector<std::string>& folders) {
  std::vector<Source> sources;
  for (const std::string& folder : folders) {
    if (!fs::exists(kRoot / folder)) continue;
    for (const auto& entry : fs::recursive_directory_iterator(kRoot / folder)) {
      const auto ending = entry.path().extension();
      if (!entry.is_regular_file() || (ending != ".hpp" && ending != ".cpp")) continue;
      const std::string path = fs::relative(entry.path(), kRoot).generic_string();
      sources.push_back({path, linesOf(textOf(path))});
    }
  }
  std::ranges::sort(sources, {}, &Source::path);
  return sources;
}

std::vector<std::string> linesWith(const Source& source, const std::regex& pattern) {
  std::vector<std::string> found;
  for (std::size_t i = 0; i < source.lines.size(); ++i) {
    if (std::regex_search(source.lines[i], pattern)) {
      found.push_back(place(source, i) + ": " + source.lines[i]);
    }
  }
  return found;
}

std::vector<Include> includesOf(const Source& source) {
  static const std::regex kInclude(R"(^\s*#\s*include\s*([<"])([^>"]*)[>"])");
  std::vector<Include> includes;
  for (std::size_t i = 0; i < source.lines.size(); ++i) {
    std::smatch match;
    if (!std::regex_search(source.lines[i], match, kInclude)) continue;
    includes.push_back({match[2], match[1] == "\"", place(source, i)});
  }
  return includes;
}

std::string joined(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + '\n';
  return text;
}

}  // namespace tidy
