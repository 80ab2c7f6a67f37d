// Ctrl-C and SIGTERM, noticed between two steps so that everything is stopped in order.
#pragma once

#include <chrono>
#include <exception>
#include <functional>

namespace pillion::warehouse {

class Interrupted : public std::exception {
 public:
  const char* what() const noexcept override { return "interrupted"; }
};

// Call before any thread starts. The first signal is only remembered; the second ends the program
// at once (its children are then killed by the kernel).
void catchInterruption();

bool interrupted();

// Polls until `condition` holds or `limit` has passed; throws Interrupted after a signal.
bool waitFor(std::chrono::milliseconds limit, const std::function<bool()>& condition);

}  // namespace pillion::warehouse
