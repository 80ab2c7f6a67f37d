#include "base/random.hpp"

#include <sys/random.h>

#include <cerrno>
#include <system_error>

namespace pillion::base {
namespace {

class SystemRandom : public Random {
 public:
  std::uint64_t next() override {
    std::uint64_t value = 0;
    while (::getrandom(&value, sizeof value, 0) != sizeof value) {
      if (errno != EINTR) throw std::system_error(errno, std::generic_category(), "getrandom");
    }
    return value;
  }
};

}  // namespace

Random& systemRandom() {
  static SystemRandom random;
  return random;
}

}  // namespace pillion::base
