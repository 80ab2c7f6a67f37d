#include "support/temporary_directory.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <string>
#include <system_error>

namespace pillion::support {

void changeOwner(const std::filesystem::path& path, const User& user) {
  if (chown(path.c_str(), user.uid, user.gid) != 0) {
    throw std::system_error(errno, std::generic_category(), "cannot chown " + path.string());
  }
}

TemporaryDirectory::TemporaryDirectory() {
  const char* base = std::getenv("TMPDIR");
  std::string name = base != nullptr && *base != '\0' ? base : "/tmp";
  name += "/pillion-XXXXXX";
  if (mkdtemp(name.data()) == nullptr) {
    throw std::system_error(errno, std::generic_category(), "cannot create " + name);
  }
  path_ = name;
  chmod(name.c_str(), 0755);
  const char* keep = std::getenv("PILLION_KEEP");
  keep_ = keep != nullptr && std::string(keep) == "1";
}

TemporaryDirectory::~TemporaryDirectory() {
  if (keep_) return;
  // A server that was just killed may still be writing its last file; one more try is enough.
  std::error_code error;
  std::filesystem::remove_all(path_, error);
  if (error) std::filesystem::remove_all(path_, error);
}

}  // namespace pillion::support
