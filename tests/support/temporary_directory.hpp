#pragma once

#include <filesystem>

#include "support/spawn.hpp"

namespace pillion::support {

void changeOwner(const std::filesystem::path& path, const User& user);

// A directory pillion-XXXXXX under $TMPDIR or /tmp, removed at the end unless keep() was called or
// PILLION_KEEP=1 is set. Everybody may pass through it: a server of another user lives inside.
class TemporaryDirectory {
 public:
  TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  ~TemporaryDirectory();

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::filesystem::path& name) const { return path_ / name; }
  void keep(bool on = true) { keep_ = on; }

 private:
  std::filesystem::path path_;
  bool keep_ = false;
};

}  // namespace pillion::support
