#pragma once

namespace pillion::support {

// A TCP port on 127.0.0.1 that nothing listens on. It lies outside the range the kernel takes
// outgoing ports from, so it stays free until a server binds it or binds it again after a restart.
// It stays reserved for this process: neither a second call nor another test program gets it.
int freePort();

// Whether something accepts connections on 127.0.0.1:`port`.
bool accepts(int port);

}  // namespace pillion::support
