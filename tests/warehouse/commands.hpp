// What `warehouse demo` and `warehouse up` do; both return the exit status.
#pragma once

#include "fleet.hpp"

namespace pillion::warehouse {

struct DemoOptions {
  int products = 3000;
};

// Servers, services and relays; traffic; a relay and the broker killed in the middle of it; a table
// of what came of it. 0 only when nothing was lost, doubled or out of order.
int demo(const DemoOptions& options, Terminal& terminal);

// The same, without the drama, until Ctrl-C or SIGTERM.
int up(const FleetOptions& options, Terminal& terminal);

}  // namespace pillion::warehouse
