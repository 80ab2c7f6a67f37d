#pragma once

// Named crash points, at every gap between two lines whose order matters. They exist only where
// PILLION_FAILPOINTS is defined; a release holds neither the names nor the code.
//
// Armed by the environment variable PILLION_FAILPOINTS or by failpoint::arm:
//
//   site=action[@n][;site=action[@n]]…
//
// `action` is kill (SIGKILL to this process), stop (SIGSTOP), delay(milliseconds) or error (throws
// a retryable Error). With @n only the n-th passage acts, else each one.

#ifdef PILLION_FAILPOINTS

#include <cstdint>
#include <string>
#include <string_view>

namespace pillion::base::failpoint {

void hit(std::string_view site);
/// Replaces what is armed. Throws ConfigError for a text that is not of the form above.
void arm(const std::string& spec);
void disarm();
/// Passages since the site was armed.
std::uint64_t passages(std::string_view site);

}  // namespace pillion::base::failpoint

#define PILLION_FAILPOINT(site) ::pillion::base::failpoint::hit(site)
#else
#define PILLION_FAILPOINT(site) static_cast<void>(0)
#endif
