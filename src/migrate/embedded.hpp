#pragma once

#include <string>
#include <vector>

namespace pillion::migrate {

struct EmbeddedFile {
  int version;
  std::string name;
  std::string text;
};

/// The files of sql/, generated at build time.
const std::vector<EmbeddedFile>& embeddedFiles();

}  // namespace pillion::migrate
