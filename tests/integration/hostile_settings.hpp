#pragma once

#include <string>
#include <vector>

#include "fixture.hpp"

namespace pillion::test {

struct Setting {
  std::string name;
  std::string value;
};

/// Values that somebody could feel, of everything that a role may be given and that has no free
/// text; of those that have, the ones below. client_encoding is the publishers' own affair.
std::vector<Setting> hostileSettings(const TestDatabase& database);

}  // namespace pillion::test
